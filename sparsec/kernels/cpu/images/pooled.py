"""The maxima of rows that a kernel makes from the top of an image down, so that the image is never written whole.

Rows come in runs of a fixed number. An output row whose window ends below a run waits, as far as it has come, for the
next one; where a thread ends, it waits for all threads. A bias and a function that never falls commute with maxima, so
that they are left for these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.images.padded import end_row, load_lanes, padded_rows, put
from sparsec.kernels.cpu.images.window import Tile, Window, row_taps, undealt
from sparsec.kernels.emit.extremum import maximum
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along, shared
from sparsec.kernels.emit.tir import Buffer, Expr, held, load, splat, store

RISING = ("none", "relu", "clip")
"""Activations that commute with maxima."""
WRITTEN = 25
"""Elements of a window, all of which are written out."""


@dataclass(frozen=True)
class Pooled:
    """Maxima of rows.

    Attributes:
        window: its source is the image that is never written.
        step: rows that a kernel makes at a time.

    """

    window: Window
    step: int

    @property
    def rows(self) -> int:
        """Rows of a run: whole steps, and whole strides of the window."""
        return math.lcm(self.step, self.window.strides[0])

    @property
    def runs(self) -> int:
        """Runs of an image."""
        return -(-self.window.source.height // self.rows)

    @property
    def outputs(self) -> int:
        """Rows of the output from run to run."""
        return self.rows // self.window.strides[0]

    @property
    def first(self) -> int:
        """The first row of the output that ends in a run, counted from the run's `outputs`."""
        w = self.window
        return -((w.kernel[0] - 1 - w.begins[0]) // w.strides[0])

    @property
    def waits(self) -> bool:
        """Whether rows wait for the next run."""
        return self.top(self.first + self.outputs) < self.rows

    @property
    def width(self) -> int:
        """Floats of a row that waits."""
        return round_up(self.window.target.width, self.window.target.lanes)

    def place(self, thread: Expr, channel: Expr) -> Expr:
        """Where a row of a thread and channel waits."""
        return (thread * self.window.target.channels + channel) * self.width

    def top(self, output: int) -> int:
        """The first row of an output row's window, counted from the run's."""
        return output * self.window.strides[0] - self.window.begins[0]


def reject(w: Window, activation: str) -> str | None:
    """Why maxima of rows cannot be found as the rows come, or None."""
    if activation not in RISING:
        return "maxima do not commute with the activation"
    if w.source.batch != 1 or w.source.dtype != "float32":
        return "there are several images, or codes"
    if w.dilations != (1, 1) or w.kernel[0] > w.strides[0] + 1 or math.prod(w.kernel) > WRITTEN:
        return "more than one row would wait, or the window is large"
    if any((count - 1) * stride - pad >= size for count, stride, pad, size in zip(
            (w.target.height, w.target.width), w.strides, w.begins, (w.source.height, w.source.width), strict=True)):
        return "windows lie in the padding, where the activation would see no pixel"
    return None


@dataclass(frozen=True)
class Run:
    """Rows of a channel as a kernel has made them.

    Attributes:
        buffer: where they are.
        start: from a row of the run to the index of its first pixel.
        thread: who made them.
        number: of the run in the image.
        channel: of the image.
        finish: bias and activation.

    """

    buffer: Buffer
    start: Callable[[int], Expr]
    thread: Expr
    number: Expr
    channel: Expr
    finish: Callable[[Expr], Expr]


def larger(a: Expr, b: Expr) -> Expr:
    """The larger of two vectors, in a register."""
    return held(maximum(held(a), b))


def clear(p: Pooled, waiting: Buffer, thread: Expr) -> None:
    """Let no row wait for a thread's first run."""
    size, lanes = p.place(1, 0), p.window.target.lanes
    with T.serial(0, size // lanes) as vector:
        store(waiting, thread * size + vector * lanes, splat(-np.inf, lanes))


def pool(y: Buffer, p: Pooled, waiting: Buffer, run: Run) -> None:
    """Emit the output rows that a run completes; `waiting` holds a row for every thread and channel."""
    last = p.runs - 1
    with T.If(run.number == last):
        with T.Then():
            ending = range(p.first, p.window.target.height - last * p.outputs)
            _rows(y, p, waiting, run, ending, p.window.source.height - last * p.rows)
        with T.Else():
            end = p.first + p.outputs
            _rows(y, p, waiting, run, range(p.first, end), p.rows, end if p.waits else None)


def _rows(y: Buffer, p: Pooled, waiting: Buffer, run: Run, ending: range, height: int,
          begun: int | None = None) -> None:
    """The output rows that end in a run of so many rows; another may have begun, and waits."""
    w, target, lanes = p.window, padded_rows(p.window.target), p.window.target.lanes
    kept = T.Bind(p.place(run.thread, run.channel))
    wanted = [*ending, *([] if begun is None else [begun])]

    def vector(t: Expr) -> None:
        totals: dict[int, Expr] = {}
        if p.waits and ending:
            totals[p.first] = T.Bind(load(waiting, kept + t * lanes, lanes))
        for i in range(height):
            users = [q for q in wanted if p.top(q) <= i < p.top(q) + w.kernel[0]]
            if users:
                taps = row_taps(run.buffer, run.start(i), w, Tile(0, run.channel, 0, t, lanes), -np.inf)
                along_row = T.Bind(reduce(larger, taps))
                for q in users:
                    totals[q] = T.Bind(larger(totals[q], along_row)) if q in totals else along_row
        for q in ending:
            total = totals.get(q, splat(-np.inf, lanes))
            with _inside(run, q):
                put(y, w.target, start(q), t * lanes, run.finish(undealt(total, w)))
        if begun is not None:
            store(waiting, kept + t * lanes, totals[begun])

    def start(q: int) -> Expr:
        return target.start(0, run.channel, run.number * p.outputs + q)

    along(-(-w.target.width // lanes), *w.inner_vectors(0, lanes), vector, unroll=1)
    for q in ending:
        with _inside(run, q):
            end_row(y, w.target, start(q), lanes)


@contextmanager
def _inside(run: Run, output: int) -> Iterator[None]:
    """Around what is done for an output row, which may lie above the image in the first run."""
    if output >= 0:
        yield
    else:
        with T.If(run.number > 0), T.Then():
            yield


def settle(y: Buffer, p: Pooled, waiting: Buffer, firsts: Sequence[int], finish: Callable[[Expr, Expr], Expr],
           isa: Isa) -> None:
    """Emit what threads owe each other: the rows that wait where one ends belong to what the next one has written.

    Args:
        y: the output.
        p: the maxima.
        waiting: a row for every thread and channel.
        firsts: by thread its first run.
        finish: bias and activation of a vector, from that and its channel.
        isa: lanes and threads.

    """
    w, target, lanes = p.window, padded_rows(p.window.target), isa.lanes
    rows = [(thread, run * p.outputs + p.first) for thread, run in enumerate(firsts[1:])]
    rows = [(thread, row) for thread, row in rows if p.waits and 0 <= row < target.height]
    if not rows:
        return
    with shared(target.channels, isa) as c:
        for thread, row in rows:
            start, kept = T.Bind(target.start(0, c, row)), T.Bind(p.place(thread, c))
            for t in range(-(-target.width // lanes)):
                value = finish(undealt(load(waiting, kept + t * lanes, lanes), w), c)
                written = load_lanes(y, start + t * lanes, lanes, 0, target.width - t * lanes)
                put(y, w.target, start, t * lanes, larger(written, value))
