"""How attention on a device goes over keys: among how many blocks they are divided, and which of them lists leave out.

The plan tells the rates that decide, see `backends.cuda.between`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.kernels.divided_keys import FASTER, MOST, PLANES, SPLITS, partial_length
from sparsec.runtime.sized.device_recording import FLOAT, HALF_BYTES, DeviceRecording
from sparsec.runtime.sized.held import Value

LISTED_STAGES = {False: 8, True: 32}
"""Stages of keys from which on masks are looked into: for several blocks of queries, and for one, as in decoding."""
INDEX = np.dtype(np.int32)


@dataclass(frozen=True)
class Blocks:
    """A kernel of attention, and what it is called for.

    Attributes:
        queries: of a block.
        about: what the plan tells of the kernels.
        shape: (batch, heads, queries, keys) of the scores.
        width: features of a head.
        groups: heads of keys and values.

    """

    queries: int
    about: Mapping[str, Any]
    shape: tuple[int, int, int, int]
    width: int
    groups: int

    @classmethod
    def of(cls, about: Mapping[str, Any], shape: tuple[int, int, int, int], width: int, groups: int) -> Blocks:
        """With the fewest queries in a block that are enough, or the most."""
        sizes: Sequence[int] = about["queries"]
        return cls(next((each for each in sizes if each >= shape[2]), sizes[-1]), about, shape, width, groups)

    @property
    def tile(self) -> Mapping[str, Any]:
        """What the plan tells of blocks of so many queries."""
        found: Mapping[str, Any] = self.about["blocks"][str(self.width)][self.about["queries"].index(self.queries)]
        return found

    @property
    def query_blocks(self) -> int:
        """Blocks of queries of a head."""
        return -(-self.shape[2] // self.queries)

    @property
    def stages(self) -> int:
        """Stages of keys."""
        return -(-self.shape[3] // int(self.tile["keys"]))

    @property
    def rows(self) -> int:
        """Queries of all heads of all sequences."""
        batch, heads, queries, _ = self.shape
        return batch * heads * queries

    def partial(self, shares: int) -> int:
        """Elements that shares of keys leave."""
        return partial_length(self.rows, self.width, shares) if shares > 1 else 1

    @property
    def shares(self) -> int:
        """Blocks that share the keys of a query, so that these take the least time."""
        offers = [shares for shares in SPLITS if shares <= max(1, self.stages) and self.partial(shares) <= MOST]
        return min(offers, key=lambda shares: self.seconds(shares) * (FASTER if shares == 1 else 1))

    def seconds(self, shares: int) -> float:
        """What a call takes at least: its waves of blocks, stage by stage, or what it reads; and the second kernel."""
        batch, heads, _, keys = self.shape
        processors, tile = self.about["multiprocessors"], self.tile
        blocks = batch * heads * self.query_blocks * shares
        together = min(tile["resident"], -(-blocks // processors))
        stage = max(tile["wait_s"], together * tile["work_s"])
        waves = -(-blocks // (processors * tile["resident"]))
        read = 2 * batch * self.groups * keys * self.width * HALF_BYTES / self.about["bytes_per_s"]
        kept = 2 * FLOAT.itemsize * self.partial(shares) / self.about["kept_bytes_per_s"]
        return float(max(waves * -(-self.stages // shares) * stage, read)
                     + (shares > 1) * (self.about["next_s"] + kept))


class Attending(DeviceRecording):
    """A recording that calls kernels of attention."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._lists: dict[str, dict[tuple[int, int], Value]] = {}  # of masks, by what a block has of queries and keys

    def _spend(self, name: str) -> None:
        """A mask's lists, too."""
        super()._spend(name)
        for value in self._lists.pop(name, {}).values():
            self._release(value)

    def _listed(self, name: str, mask: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, list[int]]:
        """The lists of the keys that a mask shows, and what the kernel is told of them; one list stands for none."""
        own = tuple(size if stride else 1 for size, stride in zip(mask.shape, mask.strides, strict=True))
        if own[3] == 1 or blocks.stages < LISTED_STAGES[blocks.query_blocks == 1]:
            value = self._piece((1,), INDEX)
            self._forget(value)  # nobody reads it
            return np.asarray(value.array), [0] * 4
        key = blocks.queries, int(blocks.tile["keys"])
        made = self._lists.setdefault(name, {})
        if key not in made:
            made[key] = self._list(mask, own, blocks)
        lists = np.asarray(made[key].array)
        strides = [stride // lists.itemsize if size > 1 else 0
                   for size, stride in zip(lists.shape[:3], lists.strides[:3], strict=True)]
        return lists, [1, *strides]

    def _list(self, mask: np.ndarray, own: tuple[int, ...], blocks: Blocks) -> Value:
        """Write lists of a mask that has `own` dimensions."""
        batch, heads, queries, _ = own
        value = self._piece((batch, heads, -(-queries // blocks.queries), 1 + blocks.stages), INDEX)
        assert value.root is not None
        self._users[value.root] += 1
        peaks = self._piece((PLANES * batch * heads * queries * blocks.stages,), FLOAT)
        numbers = [batch, heads, queries, self._keys(mask.shape[3]), 1 + blocks.stages]
        numbers += [stride // mask.itemsize for stride in mask.strides]
        self._listing(f"lists_{blocks.queries}_{blocks.tile['keys']}", [mask], [peaks.array, value.array], numbers)
        self._forget(peaks)
        return value

    def _keys(self, keys: int) -> int:
        """How many keys kernels are told."""
        return keys

    def _listing(self, name: str, given: Sequence[np.ndarray], made: Sequence[np.ndarray],
                 numbers: Sequence[int]) -> None:
        """The kernels that write lists."""
        self._between(name, [*given, *made], numbers)
