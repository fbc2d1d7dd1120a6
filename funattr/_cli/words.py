"""Answers to mistakes: one sentence each."""

from __future__ import annotations

import argparse
import contextlib
import difflib
from collections.abc import Iterator, Sequence


def mistake(sentence: str) -> argparse.ArgumentError:
    """What to raise for a mistake of the caller: `main` prints the sentence on stderr and returns 2."""
    return argparse.ArgumentError(None, sentence)


def choices(name: str, known: Sequence[str], most: int = 12) -> str:
    """The end of a sentence about a wrong name: the one that was meant, or those there are."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        close = [k for k in known if k.lower() == name.lower()][:1]
    if close:
        return f": did you mean {close[0]!r}?"
    return f": choose one of {listed(known, most)}."


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_line(error: BaseException) -> str:
    """What an error says, on one line: the library's own sentence as it is, others after their type."""
    own = getattr(error, "complaint", None)  # without the call in front, which is not the caller's
    text = " ".join(str(own or error).split())
    text = text if len(text) <= 400 else text[:397] + "..."
    if own is not None:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def answered(what: str) -> Iterator[None]:
    """Turn an error of what the user brought (a model, a file) into one sentence: `what` went wrong, then the error."""
    try:
        yield
    except argparse.ArgumentError:
        raise
    except Exception as error:
        raise mistake(f"{what}: {one_line(error)}") from error
