"""The command ``funattr``. Each subcommand is a module with `add`, which declares its options, and `run`, which obeys them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from funattr import __version__
from funattr._demo import command as demo


class _Parser(argparse.ArgumentParser):
    """A parser that leaves the answer to a mistake to `main`: one sentence, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit status: 0, or 2 after a mistake of the caller, which is answered in one sentence on stderr.

    Example:
        >>> main(["demo", "--method", "saliency", "--index", "17", "--out", "nowhere/demo.png"])
        2
    """
    parser = _Parser(prog="funattr", description="Attributions for PyTorch models.")
    parser.add_argument("--version", action="version", version=f"funattr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    demo.add(commands)
    try:
        arguments = parser.parse_args(argv)
        if not hasattr(arguments, "run"):
            parser.print_help(sys.stderr)
            return 2
        arguments.run(arguments)
    except (argparse.ArgumentError, ImportError) as error:  # ImportError: an extra is missing, and the message says which
        print(f"funattr: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
