"""Texts with cures that no row of `tests/cure_rows*.py` runs, and why. It only shrinks: a new cure gets a row instead."""

from __future__ import annotations

#: Why, and of which file the text with these words is.
NOT_RUN: dict[str, list[tuple[str, str]]] = {
    "installs a package": [
        ("_cli/bench.py", "and run funattr bench again."),
        ("_cli/bench.py", 'pip install -e ".[bench]" in the clone.'),
        ("_cli/checkpoint.py", '.safetensors files need safetensors: pip install "funattr[cli]".'),
        ("_cli/export.py", "ONNX files need onnxscript: pip install onnxscript"),
        ("_cli/keep.py", '.safetensors files need safetensors: pip install "funattr[cli]".'),
        ("_cli/libraries.py", "models of {} need it: pip install {}"),
        ("_cli/write.py", '.safetensors files need safetensors: pip install "funattr[cli]".'),
        ("_demo/model.py", 'pip install "funattr[demo]".'),
        ("dataset/_arrow.py", 'data sets need pyarrow: pip install "funattr[dataset]".'),
        ("dataset/_pictures.py", 'images need pillow: pip install "funattr[cli]".'),
        ("dataset/_ray.py", 'engine="ray" needs Ray: pip install "funattr[ray]".'),
        ("masks/_groups.py", 'superpixels() needs scikit-image: pip install "funattr[superpixels]".'),
        ("viz/_blend.py", 'writing pictures needs Pillow: pip install "funattr[viz]".'),
        ("viz/_colors.py", 'colour maps by name need matplotlib: pip install "funattr[viz]".'),
        ("viz/_draw.py", 'pictures need matplotlib: pip install "funattr[viz]".'),
        ("viz/_labels.py", 'pictures need matplotlib: pip install "funattr[viz]".'),
    ],
    "needs scikit-image, which is not in every environment": [
        ("masks/_groups.py", "pass pictures[None]"),
    ],
    "not run yet": [
        ("_steps/coalitions.py", "{} its own: choose a layer with the batch first."),
        ("dataset/_folder.py", "run with varying=True, into another folder."),
    ],
    "takes another run, more workers or a cluster": [
        ("dataset/_pool.py", "run it again with a smaller batch_size or fewer workers."),
        ("dataset/_ray.py", "ray.init(num_cpus={}), or have fewer workers."),
        ("dataset/_run.py", "run(): Ray shares the examples out by itself: leave out shard."),
    ],
}
