"""What the command says: lines of an answer, and a sentence for each mistake."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from ..dataset._names import NoSuchName, legible, listed
from ..dataset._names import meant as choices

__all__ = ["answered", "check_utf8", "choices", "legible", "listed", "mistake", "one_line", "say", "warn", "writing"]


def mistake(sentence: str) -> argparse.ArgumentError:
    """What to raise for a mistake of the caller: `main` prints the sentence on stderr and returns 2."""
    return argparse.ArgumentError(None, sentence)


def check_utf8(text: str, what: str) -> None:
    """Refuse a word of the command line that no text is, before a tokenizer does in words of its own."""
    if legible(text) != text:
        raise mistake(f"{what} is not UTF-8, as all text must be: '{legible(text)}'.")


def say(what: str, text: str) -> None:
    """A line of the answer, with the word that says what it is in front."""
    print(f"{what:13s}{text}", flush=True)


def warn(sentence: str) -> None:
    """Say what the caller should know, on stderr."""
    print(f"funattr: warning: {sentence}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """What an error says, on one line: the library's own sentence as it is, others after their type."""
    own = getattr(error, "complaint", None)  # without the call in front, which is not the caller's
    text = " ".join(str(own or error).split())
    text = text if len(text) <= 400 else text[:397] + "..."
    if own is not None or isinstance(error, NoSuchName):
        return text
    for call in ("run(): ", "load(): "):
        if text.startswith(call):
            return text.removeprefix(call)
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text in {error.encoding.upper()} (byte {error.start})"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename is not None else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def answered(what: str = "") -> Iterator[None]:
    """Turn an error of what the user brought (a model, a file) into one sentence: `what` went wrong, then the error."""
    try:
        yield
    except argparse.ArgumentError:
        raise
    except NoSuchName as error:
        raise mistake(str(error)) from error
    except Exception as error:
        raise mistake(f"{what}: {one_line(error)}" if what else one_line(error)) from error


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn the error of a file that cannot be written into one sentence."""
    try:
        yield
    except OSError as error:
        raise mistake(f"cannot write {str(out)!r}: {error.strerror or error}.") from error
