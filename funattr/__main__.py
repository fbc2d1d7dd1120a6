"""The command ``funattr``. Each subcommand is a module with `add`, which declares its options, and `run`, which obeys them."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NoReturn

from funattr import __version__
from funattr._cli import bench, dataset, evaluate, explain, export, layers, methods, show
from funattr._cli.words import choices
from funattr._demo import command as demo


class _Parser(argparse.ArgumentParser):
    """A parser that leaves the answer to a mistake to `main`: one sentence, without the usage in front."""

    names: Mapping[str, argparse.ArgumentParser] = MappingProxyType({})  # of its commands

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As it is, but that an option which does not exist is answered with what was meant."""
        given = list(sys.argv[1:] if args is None else args)
        if given and not given[0].startswith("-") and given[0] not in self.names:
            raise argparse.ArgumentError(None, f"there is no command {given[0]!r}{choices(given[0], list(self.names))}")
        found, left = self.parse_known_args(given, namespace)
        if left:
            command = next((word for word in given if word in self.names), "")
            known = re.findall(r"--([a-z][a-z-]*)", self.names[command].format_usage()) if command else []
            wrong = next((word for word in left if word.startswith("-")), left[0])
            near = get_close_matches(wrong.partition("=")[0].lstrip("-"), known, 1)
            cure = (
                f"did you mean --{near[0]}?" if near else f"{' '.join(['funattr', *filter(None, [command])])} --help lists all."
            )
            what = f"there is no option {wrong}" if wrong.startswith("-") else f"{wrong!r} is one argument too many"
            raise argparse.ArgumentError(None, f"{what}: {cure}")
        return found

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
    parser.names = commands.choices
    for command in (explain, evaluate, export, layers, methods, dataset, show, demo, bench):
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
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a log's encoding lacks is told by escapes, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
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
