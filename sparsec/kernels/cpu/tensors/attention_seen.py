"""Keys that a mask hides from every query of a sequence, as padding is hidden: they are left out at run time.

A head's keys, values and mask are moved together by compressing vectors (AVX-512), so that what multiplies them goes
over those seen alone. Weights of hidden keys are zeros in float32, whatever the scores; a sequence that sees no key
keeps all of them, and what is no number is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.images.padded import load_lanes
from sparsec.kernels.cpu.tensors.attention_blocks import AttentionParams, Block, row_of
from sparsec.kernels.cpu.tensors.attention_pairs import KeyTiles
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, lanes_of, load, splat, store
from sparsec.kernels.hidden_keys import HIDDEN

LLVM = """
declare <16 x float> @llvm.x86.avx512.mask.compress.v16f32(<16 x float>, <16 x float>, <16 x i1>)
define linkonce_odr <16 x float> @sparsec_seen_together(<16 x float> %x, i32 %bits) alwaysinline nounwind readnone {
  %low = trunc i32 %bits to i16
  %mask = bitcast i16 %low to <16 x i1>
  %r = call <16 x float> @llvm.x86.avx512.mask.compress.v16f32(<16 x float> %x, <16 x float> zeroinitializer,
                                                               <16 x i1> %mask)
  ret <16 x float> %r
}
define linkonce_odr i32 @sparsec_seen_bits(<16 x float> %x, <16 x float> %least) alwaysinline nounwind readnone {
  %mask = fcmp ugt <16 x float> %x, %least
  %low = bitcast <16 x i1> %mask to i16
  %r = zext i16 %low to i32
  ret i32 %r
}
"""


@dataclass(frozen=True)
class Seen:
    """The keys that a sequence sees, in scratch.

    Attributes:
        count: (1,), int32: how many, and after `gather` with those that fill up a block of them, which weigh nothing.
        bits: int32 by vector of keys: which are seen.
        places: int32 by vector of keys: how many are seen before it.
        buffers: "k" and "v" (depth, stride), and "mask": one head's, moved together.
        stride: elements from a feature to the next.

    """

    count: Buffer
    bits: Buffer
    places: Buffer
    buffers: Buffers
    stride: int

    @classmethod
    def allocate(cls, p: AttentionParams, lanes: int) -> Seen:
        """Scratch for a head."""
        keys = p.layout("k")
        vectors, stride = -(-p.keys // lanes), keys.tiles * keys.width + lanes
        count, bits, places = (T.alloc_buffer((size,), "int32") for size in (1, vectors, vectors))
        sizes = {"k": p.depth * stride, "v": p.depth * stride, "mask": stride}
        buffers = {name: T.alloc_buffer((size,), "float32") for name, size in sizes.items()}
        return cls(count, bits, places, buffers, stride)

    def params(self, p: AttentionParams) -> AttentionParams:
        """Those of attention over what is seen."""
        return replace(p, mask=(1, 1, 1, self.stride))


def find(b: Buffers, p: AttentionParams, seen: Seen, row: Expr, lanes: int) -> None:
    """Look which keys the mask shows, whose first lies at `row`, and move the mask together."""
    masks = {at: load_lanes(b["mask"], row + at, lanes, 0, p.keys - at, -np.inf) for at in range(0, p.keys, lanes)}
    most = T.alloc_buffer((lanes,), "float32")
    store(most, 0, splat(-np.inf, lanes))
    for vector in masks.values():
        store(most, 0, T.max(load(most, 0, lanes), vector))
    top = most[0]
    for lane in range(1, lanes):
        top = T.max(top, most[lane])
    top = T.Bind(top)
    shown = T.Bind(T.And(top > T.float32(HIDDEN), top < T.float32(np.inf)))  # neither for what is no number
    least = T.Bind(splat(T.if_then_else(shown, top + T.float32(HIDDEN), T.float32(-np.inf)), lanes))
    T.buffer_store(seen.count, T.int32(0), [0])
    for number, (at, vector) in enumerate(masks.items()):
        within = (1 << min(lanes, p.keys - at)) - 1
        bits = T.if_then_else(shown, T.call_extern("int32", "sparsec_seen_bits", vector, least), T.int32(-1))
        bits = T.Bind(T.bitwise_and(bits, T.int32(within)))
        T.buffer_store(seen.bits, bits, [number])
        T.buffer_store(seen.places, seen.count[0], [number])
        store(seen.buffers["mask"], seen.count[0], _together(vector, bits))
        T.buffer_store(seen.count, seen.count[0] + T.popcount(bits), [0])
    store(seen.buffers["mask"], seen.count[0], splat(-np.inf, lanes))


def gather(b: Buffers, p: AttentionParams, seen: Seen, head: tuple[Expr, Expr], block: Block) -> KeyTiles:
    """Move the keys and values of a head (sequence, number) together, with zeros behind them to the end of a tile.

    `count` becomes a multiple of the block's rows.
    """
    (sequence, index), lanes, count = head, block.lanes, T.Bind(seen.count[0])
    tiles = T.Bind(T.floordiv(count + (p.width - 1), p.width))
    for name in "kv":
        layout, offset = p.layout(name), getattr(p, name).offset + index * p.depth
        with T.serial(0, p.depth) as feature:
            source = T.Bind(row_of(layout, sequence, 0, offset + feature))
            for number in range(-(-p.keys // lanes)):
                tile, lane = divmod(number * lanes, p.width)
                vector = load(b[name], source + tile * layout.features * layout.width + lane, lanes)
                store(seen.buffers[name], feature * seen.stride + seen.places[number],
                      _together(vector, seen.bits[number]))
            with T.serial(0, T.floordiv(tiles * p.width - count + (lanes - 1), lanes)) as rest:
                store(seen.buffers[name], feature * seen.stride + count + rest * lanes, splat(0.0, lanes))
    T.buffer_store(seen.count, T.floordiv(count + (block.rows - 1), block.rows) * block.rows, [0])
    return KeyTiles(lambda tile: (tile * p.width, tile * p.width), tiles, 0, p.width, seen.stride)


def _together(vector: Expr, bits: Expr) -> Expr:
    """The lanes whose bits are set, one after another, zeros behind them."""
    return T.call_extern(f"float32x{lanes_of(vector)}", "sparsec_seen_together", vector, bits)
