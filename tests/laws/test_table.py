"""The table of methods is whole: whoever adds a method adds a row, and gets the generic tests."""

from __future__ import annotations

import inspect

import funattr as fa

from ..methods import METHODS

#: What takes a model and an input, and gives no attribution: the primitives that methods are made of, and the list of layers.
NO_METHODS = {"value_and_gradient", "game", "layers", "absorbed"}


def test_every_public_method_has_a_row() -> None:
    public = {
        name
        for name in fa.__all__
        if callable(getattr(fa, name)) and list(inspect.signature(getattr(fa, name)).parameters)[:2] == ["model", "x"]
    }
    assert public >= NO_METHODS  # else they are no exceptions
    rows = {row.name: inspect.unwrap(row.method) for row in METHODS if "(" not in row.name}
    missing = {name for name in public - NO_METHODS if inspect.unwrap(getattr(fa, name)) is not rows.get(name)}
    assert not missing, f"give them a row in tests/methods.py: {sorted(missing)}"


def test_every_combinator_of_one_method_has_a_row() -> None:
    """Those that need no more than a method; tests/combine/test_combine.py composes all of them."""
    rows = {row.name.partition("(")[0] for row in METHODS}
    assert {"noise_tunnel", "relu", "absolute", "normalize", "sum_channels", "multiply"} <= rows
