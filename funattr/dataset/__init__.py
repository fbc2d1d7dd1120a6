"""Attributions of whole data sets, on one machine or many. Needs pyarrow: ``pip install "funattr[dataset]"``."""

from ._load import failed, load
from ._run import run

__all__ = ["failed", "load", "run"]
