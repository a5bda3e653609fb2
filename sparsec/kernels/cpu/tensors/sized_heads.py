"""Attention of one token of one text, with what comes in front of it: rotation, and entering the caches.

As `sized_rotary.py` and `sized_attention.py` compute it, whose statements these are.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from sparsec.graph.sized import CACHE_SIZES
from sparsec.kernels.cpu.tensors.sized_attention import SIZES, Frame, SizedAttention, lanes_of, over_groups
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, store


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
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_attr({"tirx.noalias": True})
        b = {"sizes": T.arg("sizes", T.buffer((len(CACHE_SIZES),), "int64", align=8))}
        for name, length in p.arguments.items():
            size = T.var("int64", f"{name}_length") if length is None else length
            b[name] = T.arg(name, T.buffer((size,), "float32", align=4))
        b["y"] = T.arg("y", T.buffer((p.heads * p.attention.width,), "float32", align=4))
        with T.sblock("root"):
            T.reads()
            T.writes()
            _emit(b, p, isa)
    return builder.get()


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
    over_groups(Frame(b, p.attention, sizes, lanes_of(p.attention, isa)), isa)


def _copy(isa: Isa, source: tuple[Buffer, Expr], target: tuple[Buffer, Expr], count: int) -> None:
    lanes = isa.lanes
    while count % lanes:
        lanes //= 2
    for first in range(0, count, lanes):
        store(target[0], target[1] + first, load(source[0], source[1] + first, lanes))


def _rotate(b: Buffers, p: SizedHeads, isa: Isa, source: tuple[Buffer, Expr], target: tuple[Buffer, Expr]) -> None:
    """The features of one head."""
    half, lanes = p.attention.depth // 2, isa.lanes
    while half % lanes:
        lanes //= 2
    for first in range(0, half, lanes):
        near, far = (T.Bind(load(source[0], source[1] + first + side, lanes)) for side in (0, half))
        cos, sin = ([load(b[name], first + side * p.both, lanes) for side in (0, half)] for name in ("cos", "sin"))
        store(target[0], target[1] + first, near * cos[0] - far * sin[0])
        store(target[0], target[1] + first + half, far * cos[1] + near * sin[1])
