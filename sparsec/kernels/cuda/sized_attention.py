"""Attention whose sizes and strides the run tells: that of `attention.py`, which reads projections where they lie.

Queries, keys, values and the mask may lie in any order of their dimensions, as long as a head's features are
neighbours; heads of grouped queries share keys and values. Y is (batch, queries, heads, width). The run also tells
among how many blocks the keys are divided, and whether there are lists of the keys that a mask shows; what shares of
keys leave is put together by `attention_parts.build`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from sparsec.errors import FormatError
from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.cuda.attention import attend
from sparsec.kernels.cuda.attention_params import AttentionParams, reject
from sparsec.kernels.cuda.attention_sizes import QUAD, Block, token_of, where
from sparsec.kernels.cuda.attention_turns import Stage
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

STRIDES = {"q": ("q_batch", "q_head", "q_token"), "k": ("k_batch", "k_head", "k_token"),
           "v": ("v_batch", "v_head", "v_token"), "mask": ("m_batch", "m_head", "m_query", "m_key")}
"""The names of strides, in elements; those of a mask are 0 where it is the same for all."""
SIZES = ("heads", "repeat", "queries", "keys", "batch", "shares")
"""The names of sizes: `repeat` heads share keys and values, `shares` blocks the keys of a query."""
LISTS = ("listed", "l_batch", "l_head", "l_block")
"""The names of what is told of lists: 1 where there are some, else 0, and strides in elements."""


def numbers(*, masked: bool) -> tuple[str, ...]:
    """The names of the kernel's numbers in order."""
    strides = (name for each, names in STRIDES.items() if masked or each != "mask" for name in names)
    return (*SIZES, *strides, *(LISTS if masked else ()))


def build(p: AttentionParams, *, grown: bool = False) -> Kernel:
    """The kernel: (q, k, v, partial, [mask, lists], [past], y), then `numbers`; it is masked if the parameters say so.

    Args:
        p: the attention, whose sizes are ignored.
        grown: keys and values lie in caches: there are as many as the one number in `past`, and `keys` new ones.

    Raises:
        FormatError: no kernel computes the attention.

    """
    if reason := reject(p):
        raise FormatError(f"no kernel for {p}: {reason}")
    masked = p.mask is not None
    p = replace(p, listed=masked)
    buffers = {"q": p.dtype, "k": p.dtype, "v": p.dtype, "partial": "float32",
               **({"mask": "float32", "lists": "int32"} if masked else {}), **({"past": "int32"} if grown else {}),
               "y": p.dtype}
    return pipeline.sized_func(buffers, numbers(masked=masked),
                               lambda given, told: attend(p, _Told.of(p, told, given), given))


@dataclass(frozen=True)
class _Told:
    """What the run tells, as `attention.Sizes`."""

    params: AttentionParams
    told: pipeline.Numbers
    queries: Expr
    keys: Expr
    query_blocks: Expr
    heads: Expr
    blocks: Expr
    key_blocks: Expr
    rows: Expr
    splits: Expr
    last_keys: int | None = None

    @classmethod
    def of(cls, p: AttentionParams, told: pipeline.Numbers, buffers: Buffers) -> _Told:
        """What follows from the numbers, and from the length of caches."""
        queries, heads = told["queries"], told["heads"]
        keys = told["keys"] + buffers["past"][0] if "past" in buffers else told["keys"]
        query_blocks = (queries + (p.tile.queries - 1)) // p.tile.queries
        return cls(p, told, queries, keys, query_blocks, heads, told["batch"] * heads * query_blocks,
                   (keys + (p.tile.keys - 1)) // p.tile.keys, told["batch"] * queries * heads, told["shares"])

    def ends_within(self, _name: str, _count: int) -> bool:
        """Any number may be left."""
        return True

    def first(self, b: Block, name: str, token: Expr) -> Expr:
        """By strides; Y lies query by query."""
        told, p = self.told, self.params
        if name == "y":
            return ((b.batch * self.queries + token) * self.heads + b.head) * p.width
        head = b.head if name == "q" else b.head // told["repeat"]
        batch, along, step = (told[each] for each in STRIDES[name])
        return b.batch * batch + head * along + token * step

    def list_begin(self, b: Block) -> Expr:
        """By strides."""
        told = self.told
        block = b.query // self.params.tile.queries
        return b.batch * told["l_batch"] + b.head * told["l_head"] + block * told["l_block"]

    def listed(self) -> Expr:
        """Where the run tells so."""
        return self.told["listed"] > 0 if self.params.listed else False

    def mask(self, b: Block, stage: Stage, row: int) -> Buffer:
        """A row's part, element by element."""
        batch, head, query, key = (self.told[each] for each in STRIDES["mask"])
        blocks = -(-stage.keys // 16) * 2
        values = ptx.registers(blocks * 2, "float32")
        start = T.Bind(b.batch * batch + b.head * head + T.min(token_of(b, row), self.queries - 1) * query)

        def load() -> None:
            for block in range(blocks):
                for i in range(2):
                    place = T.min(stage.first + block * 8 + b.lane % QUAD * 2 + i, self.keys - 1)
                    T.buffer_store(values, b.buffers["mask"][start + place * key], [block * 2 + i])

        where(stage.masked, values, blocks * 2, load)
        return values
