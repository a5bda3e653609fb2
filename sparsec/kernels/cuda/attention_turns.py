"""Which stages of keys a thread block goes over: all of its head's, its share of them, or those of a list alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.emit.tir import Buffer, Expr

MASKED = 2
"""An entry of a list is a stage's number times this, and one more where the mask is not 0 all over it."""


@dataclass(frozen=True)
class Stage:
    """Keys that a block has in shared memory, and multiplies.

    Attributes:
        turn: the block's turn.
        first: the first key.
        keys: how many there are, as the code is written for.
        valid: how many of these, where only the run knows.
        masked: whether the mask is other than 0 somewhere; None where that is not known.

    """

    turn: Expr
    first: Expr
    keys: int
    valid: Expr = None
    masked: Expr = None


class Turns(Protocol):
    """The stages by turns 0, 1, … below `count`, of which one is copied while the one before is multiplied."""

    @property
    def count(self) -> Expr:
        """How many; 0 or less for none."""

    def start(self) -> None:
        """What comes before the first copy, which is of turn 0."""

    def step(self, turn: Expr) -> None:
        """Go on to multiply a turn, and to copy the next one."""

    @property
    def copied(self) -> Expr:
        """The stage of the turn whose copies begin."""

    @property
    def multiplied(self) -> Expr:
        """The stage of the turn that `step` has gone on to."""

    @property
    def masked(self) -> Expr | None:
        """Whether that stage has a mask; None where all have."""


class Every:
    """All stages from the `first` on."""

    masked = None

    def __init__(self, first: Expr, count: Expr) -> None:
        self._first, self.count = first, count
        self._multiplied: Expr = None  # until the first step
        self._copied: Expr = 0

    def start(self) -> None:
        """See `Turns`."""

    def step(self, turn: Expr) -> None:
        """See `Turns`."""
        self._multiplied, self._copied = turn, turn + 1

    @property
    def copied(self) -> Expr:
        """See `Turns`."""
        return self._stage(self._copied)

    @property
    def multiplied(self) -> Expr:
        """See `Turns`."""
        return self._stage(self._multiplied)

    def _stage(self, turn: Expr) -> Expr:
        return turn if isinstance(self._first, int) and not self._first else self._first + turn


class Listed:
    """Those of a list from its entry `first` on, whose entries are read two turns before their keys are multiplied.

    Args:
        lists: of all blocks: each its length, then entries.
        begin: where this block's begins.
        share: the first entry of the block's share, how many it has, and how many all have.
        there: whether there are lists: True, or what the run tells; without them all stages are gone over.

    """

    def __init__(self, lists: Buffer, begin: Expr, share: tuple[Expr, Expr, Expr], there: Expr) -> None:
        self._lists, self._begin, self._there = lists, begin, there
        self._first, self.count, self._length = share
        self._entries = ptx.registers(3, "int32")  # of what is multiplied, is copied, and comes behind

    def start(self) -> None:
        """See `Turns`."""
        for place in range(2):
            self._read(place, place + 1)

    def step(self, turn: Expr) -> None:
        """See `Turns`."""
        for place in range(2):
            T.buffer_store(self._entries, self._entries[place + 1], [place])
        self._read(turn + 2, 2)

    @property
    def copied(self) -> Expr:
        """See `Turns`."""
        return self._entries[1] // MASKED

    @property
    def multiplied(self) -> Expr:
        """See `Turns`."""
        return self._entries[0] // MASKED

    @property
    def masked(self) -> Expr:
        """See `Turns`."""
        return self._entries[0] % MASKED == 1

    def _read(self, turn: Expr, place: int) -> None:
        number = T.min(self._first + turn, self._length - 1)
        entry = self._lists[self._begin + 1 + number]
        if self._there is not True:
            entry = T.if_then_else(self._there, entry, number * MASKED + 1)
        T.buffer_store(self._entries, entry, [place])
