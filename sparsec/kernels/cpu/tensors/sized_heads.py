"""Attention of one token of one text, with what comes in front of it: rotation, and entering the caches.

As `sized_rotary.py` and `sized_attention.py` compute it, whose statements these are.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.sized import CACHE_SIZES
from sparsec.kernels.cpu.tensors.sized_attention import SIZES, Frame, SizedAttention, over_groups
from sparsec.kernels.cpu.tensors.sized_rotary import Place, SizedRotary, rotate
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Kernel, kernel, load, store


@dataclass(frozen=True)
class SizedHeads:
    """A kernel.

    Attributes:
        attention: what it computes of queries, keys and values.
        heads, groups: of queries, and of keys.
        rotated: whether queries, and new keys, are rotated by tables.
        both: whether the tables have angles for both halves of the features.
        masked: whether there is a mask.
        appends: whether a new key and a new value enter the caches, as their last.

    """

    attention: SizedAttention
    heads: int
    groups: int
    rotated: tuple[bool, bool]
    both: bool
    masked: bool
    appends: bool

    @property
    def arguments(self) -> dict[str, int | None]:
        """The float32 buffers between the sizes and y, with their lengths."""
        depth, width = self.attention.depth, self.attention.width
        table = depth if self.both else depth // 2
        given: dict[str, int | None] = {"q": self.heads * depth}
        if self.appends:
            given |= {"new_k": self.groups * depth, "new_v": self.groups * width}
        if any(self.rotated):
            given |= {"cos": table, "sin": table}
        if self.masked:
            given["mask"] = None
        return {**given, "k": None, "v": None, "work": None}


def build(p: SizedHeads, isa: Isa) -> Kernel:
    """The kernel: (sizes, q, [new_k, new_v], [cos, sin], [mask], k, v, work) -> y; sizes as `CACHE_SIZES`."""
    floats = {name: (length, "float32") for name, length in p.arguments.items()}
    arguments = {"sizes": (len(CACHE_SIZES), "int64"), **floats, "y": (p.heads * p.attention.width, "float32")}
    return kernel(arguments, lambda b: _emit(b, p, isa), views=True)


def _emit(b: Buffers, p: SizedHeads, isa: Isa) -> None:
    told = {name: T.Bind(b["sizes"][index]) for index, name in enumerate(CACHE_SIZES)}
    depth, width = p.attention.depth, p.attention.width
    b, last = dict(b), T.Bind(told["keys"] - 1)
    if p.appends:
        with T.serial(0, T.int64(p.groups)) as group:
            to = T.Bind(group * told["k_group"] + last * told["k_key"])
            if p.rotated[1]:
                _rotate(b, p, isa, (b["new_k"], group * depth), (b["k"], to))
            else:
                _copy(isa, (b["new_k"], group * depth), (b["k"], to), depth)
            _copy(isa, (b["new_v"], group * width), (b["v"], group * told["v_group"] + last * told["v_key"]), width)
    if p.rotated[0]:
        turned = T.alloc_buffer((p.heads * depth,), "float32")
        with T.serial(0, T.int64(p.heads)) as head:
            _rotate(b, p, isa, (b["q"], head * depth), (turned, head * depth))
        b["q"] = turned
    b.setdefault("mask", b["q"])
    fixed = {"batch": 1, "groups": p.groups, "shared": p.heads // p.groups, "tokens": 1, "masked": int(p.masked),
             "q_head": depth, "y_head": width}
    sizes = {**{name: T.int64(fixed.get(name, 0)) for name in SIZES}, **told}
    over_groups(Frame(b, p.attention, sizes, isa.lanes_dividing(depth, width), once=True), isa)


def _copy(isa: Isa, source: Place, target: Place, count: int) -> None:
    lanes = isa.lanes_dividing(count)
    for first in range(0, count, lanes):
        store(target[0], target[1] + first, load(source[0], source[1] + first, lanes))


def _rotate(b: Buffers, p: SizedHeads, isa: Isa, source: Place, target: Place) -> None:
    """The features of one head."""
    rotate(SizedRotary(p.attention.depth, p.both), isa, source, target, ((b["cos"], 0), (b["sin"], 0)))
