"""Counting, for the tests; see benchmarks/cost.py."""

from benchmarks.cost import Cost, cost

__all__ = ["Cost", "cost"]
