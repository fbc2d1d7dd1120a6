"""The command ``funattr``. Each subcommand is a module with `add`, which declares its options, and `run`, which obeys them."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from funattr import __version__
from funattr._cli import bench, dataset, evaluate, explain, layers, methods, show
from funattr._demo import command as demo


class _Parser(argparse.ArgumentParser):
    """A parser that leaves the answer to a mistake to `main`: one sentence, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As it is, but that inputs may stand between options, not only in one place."""
        found, left = super().parse_known_args(args, namespace)
        if hasattr(found, "inputs") and not any(word.startswith("-") and word != "-" for word in left):
            found.inputs, left = [*found.inputs, *left], []
        return found, left


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="funattr", description="Attributions for PyTorch models.")
    parser.add_argument("--version", action="version", version=f"funattr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (explain, evaluate, layers, methods, dataset, show, demo, bench):
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit status: 0; 1 where some of what was to be explained could not be, and the rest was; 2 after a mistake of the
        caller, which is answered in one sentence on stderr; 130 after Ctrl-C.

    Example:
        >>> main(["demo", "--method", "saliency", "--index", "17", "--out", "nowhere/demo.png"])
        2
    """
    parser, arguments = _parser(), argparse.Namespace()
    try:
        arguments = parser.parse_args(argv)
        if not hasattr(arguments, "run"):
            parser.print_help(sys.stderr)
            return 2
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return arguments.run(arguments) or 0
    except (argparse.ArgumentError, ImportError) as error:  # ImportError: an extra is missing, and the message says which
        if getattr(arguments, "traceback", False):
            traceback.print_exception(error)
        print(f"funattr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if str(error):
            print(f"funattr: {error}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # funattr layers ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        return 141


def _warn(message: Warning | str, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """A warning as one line, without the code it comes from."""
    print(f"funattr: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
