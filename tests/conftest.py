from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--eager", action="store_true", help="skip what compiles, where it asks torch.compile to")


settings.register_profile("funattr", deadline=None, derandomize=True, max_examples=30, print_blob=True)
settings.load_profile("funattr")
torch.set_num_threads(1)


def no_compiling(*args: object, **options: object) -> None:
    pytest.skip("it compiles")


#: What is not to be had beside an old torch, in its words or in those of benchmarks/cost.py.
CANNOT = (
    "counting FLOPs needs torch 2.1",
    "programs need torch 2.4",
    "not implemented for 'Half'",
    "No module named 'transformers'",
    "models of transformers need it",
    "module 'torch' has no attribute 'export'",
    "module 'torch.utils' has no attribute 'checkpoint'",
    "Sampler.__init__() missing 1 required positional argument: 'data_source'",
    "derivative for aten::aminmax is not implemented",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    yield from skipped_where_impossible(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield from skipped_where_impossible(item)


def skipped_where_impossible(item: pytest.Item) -> Generator[None, None, None]:
    try:
        yield
    except (RuntimeError, ImportError, AssertionError, AttributeError, TypeError) as error:
        if not item.config.getoption("--eager") or not any(text in str(error) for text in CANNOT):
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same seed for every test, and no compiled graphs or grad mode left over from the last one."""
    torch.manual_seed(0)
    if request.config.getoption("--eager"):
        importlib.import_module("torch._dynamo")  # torch 2.0 does not do so when asked for it
        monkeypatch.setattr(torch, "compile", no_compiling)
    yield
    assert torch.is_grad_enabled()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    """A tab of Chromium."""
    from .chromium import browser, find

    if find() is None and not os.environ.get("FUNATTR_NEEDS_CHROMIUM"):
        pytest.skip("no chromium here: the page was not tried in a browser (apt-get install chromium)")
    with browser() as found:
        yield found


@pytest.fixture
def opened(tab: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page. Afterwards, nothing was complained about and nothing asked for but the file."""
    from .chromium import settle

    file = tmp_path / "page.html"

    def open_page(page: Any, **how: Any) -> Any:
        page.save(file)
        tab.open(file.as_uri(), **how)
        settle(tab)
        return tab

    yield open_page
    assert tab.complaints == []
    assert [address for address in tab.requests if not address.startswith("data:")] == [file.as_uri()]
