"""Paths to a tolerance: what is integrated, an interval halved where its error is largest, for each example by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .._core.checks import same
from .._core.passes import Question
from .._torch import numbers
from .._types import ChunkSize, Tree, map_floats, map_tensors, tensors
from .._words import complaint, warn
from .fold import attempted, of_rows, rows_alone, rows_of, with_scores
from .path import Path, flow_on, input_ends, points
from .points import at_steps, input_floats, times_way, value_and_slope_at, with_floats
from .progress import report
from .quadrature import NODES, Interval, Piece, Tolerance, integral, nodes_on, squares
from .ways import Runner, Steps


class Integrand(NamedTuple):
    """What is integrated along the path."""

    steps: Callable[[Interval], Iterator[list[Tree]]]  # at the nodes of an interval, with a leading dimension, in order
    probe: Callable[[], Tree]  # at a point in the middle, to see whether it depends on the other examples


#: What is integrated for some examples, from their part of where the path starts.
Asks: TypeAlias = Callable[[Question, list[Tree]], Integrand]


#: No half of an interval counts for less than this part of the whole's error: what the whole has seen, a half may miss at
#: its ends.
_LEAST = 1 / 32


class _Held(NamedTuple):
    """An interval that counts for an example: its error, and where its part of the integral is."""

    error: float
    piece: int
    row: int


def refined(q: Question, start: list[Tree], of: Asks, asked: Tolerance) -> tuple[list[Tree], Tensor]:
    """The integral over the path, and the norm of its error for each example, each from as many nodes as it takes by itself."""
    run, whole, size = _Rows(q, start, of), Interval(0.0, 1.0), q.size
    pieces = [run(whole, list(range(size)))]
    held = [{whole: _Held(error, 0, i)} for i, error in enumerate(pieces[0].errors)]
    report(0, asked.most)
    while True:
        total = _total(pieces, held)
        errors = [math.sqrt(sum(h.error**2 for h in each.values())) for each in held]
        norms = numbers(squares(total, size).sqrt())
        missed = [i for i in range(size) if errors[i] > asked.rtol * norms[i]]
        todo: dict[Interval, list[int]] = {}
        for i in missed:
            if _nodes(len(held[i]) + 1) <= asked.most:
                todo.setdefault(max(held[i], key=lambda on: held[i][on].error), []).append(i)
        if not todo:
            break
        for on, rows in todo.items():
            _halve(run, on, rows, pieces, held)
        if (done := _nodes(max(map(len, held)))) < asked.most:
            report(done, asked.most)
    report(asked.most, asked.most)
    if missed:
        _warn_of(max(errors[i] / norms[i] if norms[i] else math.inf for i in missed), len(missed), size, asked)
    rest = iter(total if size != 1 else [t[0] for t in total])
    found: list[Tree] = map_floats(lambda t: next(rest).to(t.dtype), map_tensors(lambda t: t[0], pieces[0].like))
    return found, torch.tensor(errors, dtype=total[0].dtype, device=total[0].device)


def _nodes(intervals: int) -> int:
    """How many nodes it took to get to so many intervals."""
    return NODES * (2 * intervals - 1)


def _halve(run: _Rows, on: Interval, rows: list[int], pieces: list[Piece], held: list[dict[Interval, _Held]]) -> None:
    """Take the halves of an interval in its place, for some examples."""
    before = {i: held[i].pop(on) for i in rows}
    for half in on.halves():
        piece = run(half, rows)
        for row, i in enumerate(rows):
            held[i][half] = _Held(max(piece.errors[row], _LEAST * before[i].error), len(pieces), row)
        pieces.append(piece)
    counting = {h.piece for each in held for h in each.values()}
    for number in {h.piece for h in before.values()} - counting:
        pieces[number] = pieces[number]._replace(parts=[])  # nobody needs them any longer


def _total(pieces: list[Piece], held: list[dict[Interval, _Held]]) -> list[Tensor]:
    """The sum over the intervals of each example."""
    total = [t.new_zeros(len(held), *t.shape[1:]) for t in pieces[-1].parts]
    of: dict[int, list[tuple[int, int]]] = {}
    for i, each in enumerate(held):
        for h in each.values():
            of.setdefault(h.piece, []).append((i, h.row))
    for number, places in of.items():
        to, rows = torch.tensor(places, device=total[0].device).unbind(1)
        total = [t.index_add(0, to, part[rows]) for t, part in zip(total, pieces[number].parts)]
    return total


def _warn_of(worst: float, missed: int, size: int, asked: Tolerance) -> None:
    warn(
        f"{missed} of {size} examples have not come to rtol={asked.rtol:g} with n_steps={asked.most} nodes: the largest "
        f"relative error is {worst:.2g}. Allow more with n_steps, or pass return_error=True to see the error of each."
    )


class _Rows:
    """Integrals for some examples: by themselves where that is exact, else among all."""

    def __init__(self, q: Question, start: list[Tree], of: Asks) -> None:
        self.q, self.start, self.of, self.size = q, start, of, q.size
        self.whole = of(q, start)
        self.among: tuple[Interval, Piece] | None = None  # what came first, of all
        self.middle: tuple[Tree, list[Tensor]] | None = None  # slopes and scores of all there
        self.alone: dict[int, bool] = {}  # examples of which it is known whether they are alone what they are among all
        self.numbers = {1, q.size}  # of how many examples at a time it is known, too

    def __call__(self, on: Interval, rows: list[int]) -> Piece:
        fewer = self.by_themselves(on, rows) if len(rows) < self.size and all(self.alone.values()) else None
        if fewer is not None:
            return fewer
        piece = integral(self.whole.steps(on), on, self.size)
        parts = piece.parts if self.size != 1 else [t[None] for t in piece.parts]
        for t in parts:
            if t.dim() == 0 or t.shape[0] != self.size:
                text = f"the value at the site {list(t.shape)} has no row for each of the {self.size} examples of x, and rtol"
                raise complaint(
                    ValueError, f"{text} is for each: choose a layer with the batch first, or one example at a time."
                )
        if self.among is None:
            self.among = on, piece
        return piece._replace(parts=[t[rows] for t in parts], errors=[piece.errors[i] for i in rows])

    def by_themselves(self, on: Interval, rows: list[int]) -> Piece | None:
        """The integral for some examples by themselves; None where that is not what it is among all."""

        def piece() -> Piece | None:
            fewer = self.some(rows) if all(map(self.shown, rows)) else None
            if fewer is None or not self.fits(fewer, rows):
                return None
            return integral(fewer.steps(on), on, len(rows))

        if (found := attempted(piece)) is None:
            self.alone[rows[0]] = False
        return found

    def some(self, rows: list[int]) -> Integrand | None:
        """What is integrated for some examples; None where these cannot be told from the rest."""
        some, start = of_rows(self.q, rows), rows_of(self.start, rows, self.size, one_for_all=True)
        return None if some is None or start is None else self.of(some, start)

    def shown(self, i: int) -> bool:
        """Whether an example gives by itself what it gives among all, all along the path: rows may meet in a part of it alone
        (`h / h.abs().max().clamp(min=1)`). Its slopes at each node, and its score at one."""
        if i not in self.alone:
            self.alone[i] = rows_alone(self.q)
            fewer, own = self.some([i]), of_rows(self.q, [i])
            if not self.alone[i] and fewer is not None and own is not None and self.among is not None:
                (on, piece), score = self.among, with_scores(own, fewer.probe)[1]
                alone = [*integral(fewer.steps(on), on, 1).parts, *score]
                self.alone[i] = all(map(same, alone, (t[[i]] for t in (*piece.parts, *self.in_the_middle()[1]))))
        return self.alone[i]

    def fits(self, fewer: Integrand, rows: list[int]) -> bool:
        """Whether so many examples give what they give among all, at one node: a model may count them."""
        own = None if len(rows) in self.numbers or rows_alone(self.q) else of_rows(self.q, rows)
        if own is not None:
            slopes, scores = with_scores(own, fewer.probe)
            all_slopes, all_scores = self.in_the_middle()
            some = [*tensors(slopes), *scores]
            if not all(map(same, some, (t[rows] for t in (*tensors(all_slopes), *all_scores)))):
                return False
        self.numbers.add(len(rows))
        return True

    def in_the_middle(self) -> tuple[Tree, list[Tensor]]:
        self.middle = self.middle or with_scores(self.q, self.whole.probe)
        return self.middle


# Which integrand, of which examples.

_MIDDLE = torch.full((1,), 0.5, dtype=torch.float64, device="cpu")


def told(q: Question, found: tuple[list[Tree], Tensor], asked: Tolerance) -> Tree:
    """What the caller is told: the result, with its error where he asks for it."""
    result, error = found
    return (q.sites.build(result), error) if asked.tells else q.sites.build(result)


def slope_within(path: Path, asked: Tolerance, chunk_size: ChunkSize, *, whole_way: bool) -> tuple[list[Tree], Tensor]:
    """The mean over a path of the gradient at the sites, times the way or not, to a tolerance; and its error."""
    run = path.steps.runner(chunk_size)
    return refined(
        path.steps.q, path.start, lambda q, start: _of_slopes(path.kind(q, start), run, chunk_size, whole_way), asked
    )


def _of_slopes(path: Path, run: Runner, chunk_size: ChunkSize, whole_way: bool) -> Integrand:
    def steps(on: Interval) -> Iterator[list[Tree]]:
        nodes = nodes_on(on)
        for a, b in path.steps.parts(NODES, chunk_size):
            for end, slopes in path.slopes(run, nodes[a:b]):
                yield times_way(slopes, end, path.start) if whole_way else slopes

    def probe() -> Tree:
        return [at_steps(slopes, 0) for _, slopes in path.slopes(Runner(), _MIDDLE)]

    return Integrand(steps, probe)


def flow_within(q: Question, baselines: Tree, asked: Tolerance, chunk_size: ChunkSize) -> tuple[list[Tree], Tensor]:
    """What flows through the sites while the input moves, to a tolerance, and its error."""
    run, start = Steps(q, input_floats(q)).runner(chunk_size), input_ends(q, baselines)[0]
    return refined(q, start, lambda q, start: _of_flow(q, start, run, chunk_size), asked)


def _of_flow(q: Question, start: list[Tensor], run: Runner, chunk_size: ChunkSize) -> Integrand:
    def probe() -> Tree:
        middle = points(start, input_floats(q), _MIDDLE)
        return value_and_slope_at(q, with_floats(q.x, [t[0] for t in middle]))

    return Integrand(lambda on: flow_on(run, q, start, on, chunk_size), probe)
