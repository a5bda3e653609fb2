"""The frame that the pieces of a kernel share: which part of the product a thread block, a warp and a lane work on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda.params import MmaParams
from sparsec.kernels.emit.tir import Buffers, Expr


@dataclass(frozen=True)
class Block:
    """A thread block at work; everything but the parameters is a TIR expression or buffer.

    Attributes:
        params: the product.
        buffers: the kernel's arguments by name.
        shared: the address of shared memory.
        thread: this thread's number in the block.
        lane: its number in the warp.
        warp_row: the warp's number along the rows.
        warp_column: the warp's number along the columns.
        row: the block's first row of W.
        column: its first column of X.
        share: its share of K.

    """

    params: MmaParams
    buffers: Buffers
    shared: Expr
    thread: Expr
    lane: Expr
    warp_row: Expr
    warp_column: Expr
    row: Expr
    column: Expr
    share: Expr


def all_of(conditions: Sequence[Expr]) -> Expr:
    """The conjunction of conditions, computed once; None for none."""
    return T.Bind(functools.reduce(T.And, conditions)) if conditions else None


def per_thread(b: Block, count: int, body: Callable[[Expr], None], unrolled: int = 32) -> None:
    """Deal pieces of work 0 … count - 1 to the block's threads, neighbours to neighbours."""
    deal(b.params.tile.threads, b.thread, count, body, unrolled)


def deal(threads: int, thread: Expr, count: int, body: Callable[[Expr], None], unrolled: int = 32) -> None:
    """`per_thread` for a number of threads of which this one is `thread`."""
    rounds = -(-count // threads)

    def one(turn: Expr) -> None:
        number = turn * threads + thread
        if count % threads == 0:
            body(number)
            return
        with T.If(number < count), T.Then():
            body(number)

    if rounds > unrolled:
        with T.serial(0, rounds) as turn:
            one(turn)
        return
    for turn in range(rounds):
        one(turn)
