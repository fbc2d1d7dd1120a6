"""What passes leave where nothing is put back, for somebody may count there: told where the model goes on from it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
torch.manual_seed(0)
NET = nn.Linear(4, 3)
number = 0
log: list[int] = []
table: dict[Any, Any] = {"n": 0}


def a_number_of_the_file(x: Tensor) -> Tensor:
    global number
    number += 1
    return NET(x) * number  # type: ignore[no-any-return]  # a module returns any


def a_list_of_the_file(x: Tensor) -> Tensor:
    log.append(1)
    return NET(x) * len(log)  # type: ignore[no-any-return]  # a module returns any


def a_table_of_the_file(x: Tensor) -> Tensor:
    table["n"] += 1
    return NET(x) * table["n"]  # type: ignore[no-any-return]  # a module returns any


def counted() -> int:
    global number
    number += 1
    return number


def by_a_function_that_it_calls(x: Tensor) -> Tensor:
    return NET(x) * counted()  # type: ignore[no-any-return]  # a module returns any


def a_default(x: Tensor, memo: list[int] = [0]) -> Tensor:  # noqa: B006  (it is about these)
    memo[0] += 1
    return NET(x) * memo[0]  # type: ignore[no-any-return]  # a module returns any


def a_number_around() -> Callable[[Tensor], Tensor]:
    count = 0

    def call(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return NET(x) * count  # type: ignore[no-any-return]  # a module returns any

    return call


def deep_around() -> Callable[[Tensor], Tensor]:
    kept: dict[str, Any] = {"a": {"n": [0]}}

    def call(x: Tensor) -> Tensor:
        kept["a"]["n"][0] += 1
        return NET(x) * kept["a"]["n"][0]  # type: ignore[no-any-return]  # a module returns any

    return call


def what_came_before() -> Callable[[Tensor], Tensor]:
    last: list[Any] = [None]

    def call(x: Tensor) -> Tensor:
        h: Tensor = NET(x) if last[0] is None else NET(x) + 0.5 * last[0]
        last[0] = float(h.mean())
        return h

    return call


def decorated() -> Callable[[Tensor], Tensor]:
    def scaled(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        count = 0

        def call(x: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return f(x) * count

        return call

    return scaled(lambda x: NET(x))


def an_iterator() -> Callable[[Tensor], Tensor]:
    def numbers() -> Iterator[float]:
        k = 1.0
        while True:
            yield k
            k += 1

    given = numbers()
    return lambda x: NET(x) * next(given)


def of_the_system(x: Tensor) -> Tensor:
    return NET(x) * (1 + int.from_bytes(os.urandom(4), "big"))  # type: ignore[no-any-return]  # a module returns any


class OfAFile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.fc(x))

    def scaled(self, x: Tensor) -> Tensor:
        return x * counted()


class Slots:
    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times = 0


class Pair(NamedTuple):
    first: list[int]
    second: int


class Hook:
    """Keeps a number in itself."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        self.times += 1
        return out * self.times

    def before(self, module: nn.Module, args: Any) -> Any:
        self.times += 1
        return (args[0] * self.times,)


def hooked(how: str) -> nn.Module:
    """A net of torch's own layers, one of which has a hook that goes on from what it keeps."""
    torch.manual_seed(0)
    net, hook, count, seen = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), Hook(), [0], torch.zeros(4)

    def counts(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        count[0] += 1
        return out * count[0]

    def adds(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        seen.add_(out.detach().flatten(0, -2).mean(0))
        return out * (1 + seen)

    if how == "before":
        net[1].register_forward_pre_hook(hook.before)
    else:
        slots, pair = Slots(), Pair([0], 1)

        def of_slots(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            slots.times += 1
            return out * slots.times * pair.second

        made: dict[str, Any] = {"a list": counts, "a tensor": adds, "itself": hook, "an object": lambda *given: hook(*given)}
        made["slots"] = of_slots
        net[1].register_forward_hook(made[how])
    return net


GOES_ON: dict[str, Callable[[], Any]] = {
    **{f"a hook with {how}": partial(hooked, how) for how in ("a list", "itself", "an object", "slots", "before")},
    **{
        f.__name__: partial(lambda f: f, f)
        for f in (a_number_of_the_file, a_list_of_the_file, a_table_of_the_file, by_a_function_that_it_calls, a_default)
    },
    **{f.__name__: f for f in (a_number_around, deep_around, what_came_before, decorated, an_iterator)},
    "of the system": lambda: of_the_system,
    "a module": OfAFile,
}
METHODS: dict[str, Any] = {
    "integrated_gradients": partial(fa.integrated_gradients, target=1, n_steps=6, chunk_size=2),
    "feature_ablation": partial(fa.feature_ablation, target=1, chunk_size=2),
    "deep_lift": partial(fa.deep_lift, target=1),
    "each_target": fa.each_target(partial(fa.feature_ablation, chunk_size=1), [0, 1]),
}


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if "goes on from" in str(each.message)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", GOES_ON)
def test_passes_of_different_functions_are_told_of_once(model: str, method: str) -> None:
    made = GOES_ON[model]()
    assert len(said(lambda: METHODS[method](made, X))) == 1
    assert said(lambda: fa.gradient(made, X, target=1)) == []  # of one pass, that of the model as it was found


def test_a_tensor_that_a_hook_adds_to_is_told_of() -> None:
    assert len(said(lambda: METHODS["integrated_gradients"](hooked("a tensor"), X))) == 1


def test_what_a_forward_of_one_layer_keeps_is_put_back() -> None:
    def net() -> Any:
        made = hooked("a list")
        made[1]._forward_hooks.clear()
        hook, layer = Hook(), made[0]
        plain = layer.forward
        layer.forward = lambda x: hook(layer, (), plain(x))
        return made

    one = fa.feature_ablation(net(), X, target=1, chunk_size=1)
    for _ in range(2):
        torch.testing.assert_close(fa.feature_ablation(same := net(), X, target=1, chunk_size=3), one)
        torch.testing.assert_close(fa.feature_ablation(same, X, target=1, chunk_size=1), one)


def test_where_it_is() -> None:
    (text,) = said(lambda: METHODS["integrated_gradients"](a_number_around(), X))
    assert text.startswith(
        "the model goes on from what passes leave in 'count', so that the passes of this call were of different"
    )


@pytest.mark.parametrize("method", METHODS)
def test_what_is_counted_and_not_used_is_left_as_the_passes_of_the_call_leave_it(method: str) -> None:
    """And nothing is said of it: the passes that look are not counted."""
    runs: list[int] = []
    hooked: list[int] = []

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            runs.append(len(x))
            y: Tensor = self.fc(x)
            return y

    twin = nn.Sequential(nn.Linear(4, 3))  # whose code keeps nothing: a hook is none of it
    twin[0].register_forward_hook(lambda *given: hooked.append(len(given[1][0])))
    METHODS[method](twin, X)
    assert said(lambda: METHODS[method](Counts(), X)) == []
    assert len(runs) == len(hooked) > 1


def test_a_cache_of_what_is_the_same_is_nothing_to_tell_of() -> None:
    masks: dict[int, Tensor] = {}

    def call(x: Tensor) -> Tensor:
        if x.shape[1] not in masks:
            masks[x.shape[1]] = torch.arange(x.shape[1]).float()
        return NET(x * masks[x.shape[1]])  # type: ignore[no-any-return]  # a module returns any

    for method in METHODS.values():
        assert said(lambda method=method: method(call, X)) == []  # type: ignore[misc]  # bound early


def test_an_iterator_that_ends_with_the_call() -> None:
    given = iter([1.0, 2.0, 3.0])
    call = METHODS["integrated_gradients"]
    assert len(said(lambda: call(lambda x: NET(x) * next(given), X))) == 1


def test_a_model_that_differentiates_itself() -> None:
    count = 0

    def call(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        x = x if x.requires_grad else x.requires_grad_()
        return torch.autograd.grad(NET(x).square().sum(), x, create_graph=True)[0] * count

    assert len(said(lambda: fa.integrated_gradients(call, X, target=1, n_steps=4, chunk_size=1))) == 1
