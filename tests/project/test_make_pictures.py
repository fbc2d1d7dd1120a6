"""The page about pictures: each is what the code above it draws, and all are there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..chromium import find

ROOT = Path(__file__).parents[2]

PAGE = """
```python
import numpy as np
from funattr import viz
figure = viz.overlay(np.eye(3), title="a title")
```

![A figure](pictures/viz-a.png)

Not a picture.

```python
picture = viz.blend(np.eye(3), np.ones((3, 20, 30)))
page = None
```

```python
assert "picture" not in globals()
picture = viz.blend(np.eye(3), np.ones((3, 40, 60)))
```

![A blend](pictures/viz-b.png) and ![again](pictures/viz-c.jpg)
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "scripts" / "make_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_picture_is_what_the_code_above_it_draws(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guide.md").write_text(PAGE)
    monkeypatch.setattr(script, "GUIDE", tmp_path / "guide.md")
    script.guide(tmp_path)
    assert {file.name for file in tmp_path.glob("viz-*")} == {"viz-a.png", "viz-b.png", "viz-c.jpg"}
    with Image.open(tmp_path / "viz-b.png") as blend, Image.open(tmp_path / "viz-c.jpg") as again:
        assert blend.size == again.size == (60, 40)
        np.testing.assert_allclose(np.asarray(blend).astype(float), np.asarray(again).astype(float), atol=60)


def test_a_page_is_a_screenshot(script: Any, tmp_path: Path) -> None:
    if find() is None:
        pytest.skip("no chromium here: the page was not tried in a browser (apt-get install chromium)")
    from funattr import viz

    page = viz.page(np.random.default_rng(0).random((1, 30, 40)), {"a": np.eye(4)[None]})
    for name, width, ground in (("page.jpg", 1280, 255), ("page-narrow.jpg", 390, 18)):
        script.screenshot(page, tmp_path / name, width)
        with Image.open(tmp_path / name) as shot:
            assert shot.width == width
            assert abs(np.asarray(shot)[-5:, -5:].astype(int).mean() - ground) < 6
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page-narrow.jpg", "page.jpg"]


def test_the_pictures_of_the_page_are_there_and_small() -> None:
    named = re.findall(r"\]\(pictures/(viz-[\w-]+\.\w+)\)", (ROOT / "docs" / "pictures.md").read_text())
    assert len(named) > 10
    assert {file.name for file in (ROOT / "docs" / "pictures").glob("viz-*")} == set(named)
    for name in named:
        assert (ROOT / "docs" / "pictures" / name).stat().st_size < 160_000
