"""What runs at full size: a few cases stand for many, and `pytest -m full` runs the rest, which `.ci/run` does as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

full = pytest.mark.full


def breadth(cases: Iterable[Any], kept: Callable[[Any], bool], several: bool = False) -> list[Any]:
    """The cases for `pytest.mark.parametrize`, all but those to be kept marked `full`; `several` where a case is one value for
    each of several names."""
    found = [case if kept(case) else pytest.param(*(case if several else (case,)), marks=full) for case in cases]
    assert any(kept(case) for case in cases), "of each kind, one case runs always"
    return found
