from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("funattr", deadline=None, derandomize=True, max_examples=30, print_blob=True)
settings.load_profile("funattr")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The same seed for every test, and no compiled graphs or grad mode left over from the last one."""
    torch.manual_seed(0)
    yield
    assert torch.is_grad_enabled()
    torch._dynamo.reset()
