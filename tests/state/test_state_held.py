"""What a model keeps in unusual places: every pass of a call starts from what the call found, and the call leaves that."""

from __future__ import annotations

import queue
import threading
import types
import weakref
from collections import ChainMap, UserDict, UserList
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

D = 4
START = torch.linspace(0.5, 2.0, D)


class Box:
    """What holds one value."""

    def __init__(self) -> None:
        self.value = START.clone()


class Private:
    """The same, in a slot that only its own class can name."""

    __slots__ = ("__value",)

    def __init__(self) -> None:
        self.__value = START.clone()

    def get(self) -> Tensor:
        return self.__value

    def put(self, value: Tensor) -> None:
        self.__value = value


class Table(dict[str, Tensor]):
    """Somebody's kind of dict, with attributes."""


class Row(list[Tensor]):
    """And of list."""


class Stored:
    """An attribute whose values lie in the class of what has it."""

    def __init__(self) -> None:
        self.values: dict[int, Tensor] = {}

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else self.values.get(id(owner), START)

    def __set__(self, owner: Any, value: Tensor) -> None:
        self.values[id(owner)] = value


GLOBAL = Box()


class Keeps(nn.Module):
    """The factor of a pass is half of that of the pass before, and one more. `get` and `put` say where it is kept."""

    shared, none, kept = Box(), None, Stored()

    def __init__(self, start: Callable[[Any], Any], get: Callable[[Any], Tensor], put: Callable[[Any, Tensor], Any]):
        super().__init__()
        self.before, self.head, self.get, self.put = nn.Linear(D, D), nn.Linear(D, 2), get, put
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.get(self) / 2 + 1
        self.keep(factor)
        return self.head(torch.tanh(self.before(x) * factor))

    def keep(self, factor: Tensor) -> None:
        self.put(self, factor)


class OnLayer(Keeps):
    def keep(self, factor: Tensor) -> None:
        self.before.factor = factor


class OnClass(Keeps):
    def keep(self, factor: Tensor) -> None:
        type(self).none = factor  # type: ignore[assignment]  # None before


class Shares(Keeps):
    def keep(self, factor: Tensor) -> None:
        self.shared.value = factor


class Descends(Keeps):
    def keep(self, factor: Tensor) -> None:
        self.kept = factor


class Names(Keeps):
    def keep(self, factor: Tensor) -> None:
        GLOBAL.value = factor


class InOwnSlot(Keeps):
    __slots__ = ("factor",)

    def keep(self, factor: Tensor) -> None:
        self.factor = factor


def at(name: str, value: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda m: setattr(m, name, value())


def with_value(kind: Callable[[], Any]) -> Callable[[], Any]:
    """One of a kind, with the start in an attribute."""

    def made() -> Any:
        one = kind()
        one.value = START.clone()
        return one

    return made


def with_item(kind: Callable[[], Any], key: Any = "a") -> Callable[[], Any]:
    def made() -> Any:
        one = kind()
        one[key] = START.clone()
        return one

    return made


def function() -> Any:
    def f() -> None:
        """Something with attributes."""

    return f


def filled_queue() -> Any:
    one: queue.Queue[Tensor] = queue.Queue()
    one.put(START.clone())
    return one


def in_attribute(m: Any) -> Tensor:
    return m.held.value


def set_attribute(m: Any, value: Tensor) -> None:
    m.held.value = value


def in_item(m: Any) -> Tensor:
    return m.held["a"]


def set_item(m: Any, value: Tensor) -> None:
    m.held["a"] = value


def start_weak(m: Any) -> None:
    m.key = Box()
    m.held = weakref.WeakKeyDictionary({m.key: START.clone()})


def start_behind(m: Any) -> None:
    m.box = Box()
    m.__dict__.update(held=weakref.WeakValueDictionary(a=m.box), seen=weakref.ref(m.__dict__.pop("box")), _box=[m.box])


ATTRIBUTES = {
    "a function": function,
    "a kind of dict": Table,
    "a kind of list": Row,
    "a namespace": types.SimpleNamespace,
    "what a thread has": threading.local,
}
ITEMS = {"UserDict": UserDict, "ChainMap": ChainMap}
PLACES: dict[str, Callable[[], Keeps]] = {
    **{name: partial(Keeps, at("held", with_value(kind)), in_attribute, set_attribute) for name, kind in ATTRIBUTES.items()},
    **{name: partial(Keeps, at("held", with_item(kind)), in_item, set_item) for name, kind in ITEMS.items()},
    "UserList": lambda: Keeps(
        at("held", lambda: UserList([START.clone()])), lambda m: m.held[0], lambda m, v: m.held.__setitem__(0, v)
    ),
    "a private slot": lambda: Keeps(at("held", Private), lambda m: m.held.get(), lambda m, v: m.held.put(v)),
    "a queue": lambda: Keeps(at("held", filled_queue), lambda m: m.held.get(), lambda m, v: m.held.put(v)),
    "weak keys": lambda: Keeps(start_weak, lambda m: m.held[m.key], lambda m, v: m.held.__setitem__(m.key, v)),
    "a layer of torch": lambda: OnLayer(lambda m: None, lambda m: getattr(m.before, "factor", START), set_attribute),
    "a slot of the module": lambda: InOwnSlot(lambda m: setattr(m, "factor", START.clone()), lambda m: m.factor, set_attribute),
    "a class that has none yet": lambda: OnClass(
        lambda m: setattr(OnClass, "none", None), lambda m: START if m.none is None else m.none, set_attribute
    ),
    "an object of the class": lambda: Shares(
        lambda m: setattr(m.shared, "value", START.clone()), lambda m: m.shared.value, set_attribute
    ),
    "an attribute's own class": lambda: Descends(lambda m: m.kept, lambda m: m.kept, set_attribute),
    "an object of the file": lambda: Names(
        lambda m: setattr(GLOBAL, "value", START.clone()), lambda m: GLOBAL.value, set_attribute
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_kept_in_unusual_places_is_put_back(place: str) -> None:
    torch.manual_seed(0)
    model, x = PLACES[place]().eval(), torch.randn(3, D)

    def by_hand(x: Tensor) -> Tensor:
        return model.head(torch.tanh(model.before(x) * (START / 2 + 1)))[:, 1]

    want = torch.stack([by_hand(x) - by_hand(x * (torch.arange(D) != k)) for k in range(D)], 1).detach()
    for chunk in (None, 1):
        found = fa.feature_ablation(model, x, target=1, chunk_size=chunk)
        torch.testing.assert_close(found, want)
    torch.testing.assert_close(fa.deep_lift(model, x, target=1).sum(1), (by_hand(x) - by_hand(0 * x)).detach())
    torch.testing.assert_close(model(x)[:, 1], by_hand(x))


CACHE: dict[Any, Any] = {}


def global_table(x: Tensor, table: dict[Any, Any] = CACHE) -> Tensor:
    if x.shape[1] not in table:
        table[x.shape[1]] = (torch.tril(x.new_ones(x.shape[1], x.shape[1])), None)
    return table[x.shape[1]][0]


class Rotary:
    tables: ClassVar[dict[int, Tensor]] = {}

    @classmethod
    def of(cls, x: Tensor) -> Tensor:
        if not cls.tables:
            cls.tables[0] = torch.tril(x.new_ones(x.shape[1], x.shape[1]))
        return cls.tables[0]


ONE: list[Any] = [None]


def global_list(x: Tensor) -> Tensor:
    if ONE[0] is None:
        ONE[0] = torch.tril(x.new_ones(x.shape[1], x.shape[1]))
    found: Tensor = ONE[0]
    return found


def around() -> Callable[[Tensor], Tensor]:
    table: dict[Any, Any] = {"other": 1}
    return lambda x: global_table(x, table)


class Causal(nn.Module):
    """A mask that is kept where nothing is put back, for other models to find."""

    def __init__(self, mask: Callable[[Tensor], Tensor]):
        super().__init__()
        self.before, self.query, self.head, self.mask = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), mask

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        scores = (self.query(x) @ x.mT).masked_fill(self.mask(x) == 0, -torch.inf)
        return self.head((scores.softmax(-1) @ x).mean(1))


@pytest.mark.parametrize(
    "mask", [lambda x: global_table(x), Rotary.of, around(), global_list], ids=["global", "class", "closure", "list"]
)
@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation", "noise_tunnel", "deep_lift_shap"])
def test_no_tensor_of_a_transform_stays_in_a_table(method: str, mask: Callable[[Tensor], Tensor]) -> None:
    CACHE.clear()
    Rotary.tables.clear()
    ONE[0] = None
    torch.manual_seed(0)
    model, x = Causal(mask).eval(), torch.randn(2, 5, 4)
    calls: dict[str, Callable[[], Tensor]] = {
        "integrated_gradients": lambda: fa.integrated_gradients(model, x, layer="before", target=1, chunk_size=20),
        "feature_ablation": lambda: fa.feature_ablation(model, x, layer="before", target=1, chunk_size=7),
        "noise_tunnel": lambda: fa.noise_tunnel(fa.gradient, stdevs=0.0)(model, x, target=1),
        "deep_lift_shap": lambda: fa.deep_lift_shap(model, x, baselines=torch.zeros(3, 5, 4), target=1),
    }
    call = calls[method]
    first = call()
    after = model(x)
    torch.testing.assert_close(call(), first)
    CACHE.clear()
    Rotary.tables.clear()
    ONE[0] = None
    torch.testing.assert_close(model(x), after)
