"""Hopper's warp-group instructions, `wgmma.mma_async` and its sparse form: four warps multiply 64 rows at once.

The weight comes from registers, in the fragments and metadata that `mma` and `mma.sp` take, and the activations from
shared memory behind a descriptor: the swizzle of `staging.py`, on rows of 128 bytes, is the hardware's own 128-byte
swizzle. TVM has no sparse `wgmma`, so the instruction is a function of CUDA source. For sm_90a only.

Each warp's lanes hold the metadata of its 16 rows as for `mma.sp` (`metadata.py`; PTX ISA, "wgmma.mma_async.sp",
"Sparse matrix storage"): of 2-byte values the selector names two lanes of four, of 1-byte values it is 0 and all four
have a word, for 32 inputs of a row, as CUTLASS's `ELayout_64x64` deals them.

Products are asynchronous: those of a stage run while the next one arrives, is waited for and loaded. Until they have
ended nothing may touch their sums, their fragments or the activations that they read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import blocks, mma_dense, mma_sp, pipeline, ptx
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.codes import E4M3
from sparsec.kernels.cuda.family import Arrays, GpuFamily, by_shape, family
from sparsec.kernels.cuda.fragments import COLUMN_BYTES, FRAGMENT_BYTES
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams
from sparsec.kernels.cuda.tiles import WARP_GROUP_TILES
from sparsec.kernels.emit.tir import Buffer, Expr

Multiply = Callable[[Block, Expr, Expr, Buffer], None]
P = TypeVar("P", bound=MmaParams)
Pack = Callable[[np.ndarray, MmaParams], Arrays]

ARCHITECTURE = "sm_90a"
"""What kernels of warp groups are compiled for."""
ROW_BYTES = 128
WARPS = 4  # of a warp group
ELEMENTS = {"float16": "f16", "bfloat16": "bf16"}
BYTES = {"int8": "s32.s8.s8", "uint8": "s32.s8.u8", E4M3: "f32.e4m3.e4m3"}
"""The types of products of bytes, by the element type of X, or of both."""
GATHERING_THREADS = 256
LEAST_COLUMNS = 16  # beyond which slices are gathered for warp groups
IN_FLIGHT = 1  # stages whose products still run when those of the next have begun

# Fields of a descriptor: 8 rows apart in units of 16 bytes from bit 32, the 128-byte swizzle in bits 62 and 63.
DESCRIPTOR = 8 * ROW_BYTES // 16 << 32 | 1 << 62 | 1 << 16
ADDRESS = 0x3FFFF


def refuses(p: MmaParams) -> str | None:
    """Why no kernel of warp groups computes the product of halves, or None."""
    return "warp groups multiply 2-byte activations" if p.dtype not in ELEMENTS else refuses_tile(p)


def refuses_tile(p: MmaParams) -> str | None:
    """Why no kernel of warp groups computes the product, whatever it multiplies; None where one does."""
    t = p.tile
    reasons = {
        f"a stage of warp groups is {ROW_BYTES} bytes deep": t.depth * p.itemsize != ROW_BYTES,
        "a warp group has four warps, each with 16 rows and all columns of the tile":
            t.warps[0] % WARPS != 0 or t.warps[1] != 1 or t.rows != 16 * t.warps[0],
        "warp groups need a stage to multiply, one that products still read, and one that arrives":
            t.stages < 2 + IN_FLIGHT,
        f"threads that gather need more registers than {t.threads} of them have":
            p.gather is not None and t.threads > GATHERING_THREADS,
        "warp groups take equal shares of K": p.k_tiles % p.split_k != 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _multiply(b: Block, sums: Buffer, fragments: Buffer, activations: Expr, metadata: Buffer = None) -> None:
    """Start adding a stage's product to the warp group's sums; wait until the products of the stage before have ended.

    Args:
        b: the block.
        sums: the warp's sums.
        fragments: registers of the weight's fragments along K, four each, which nothing else uses until they are free.
        activations: the byte at which the stage's activations lie.
        metadata: registers of 2:4 fragments, one each, for the sparsity selector 0.

    """
    span = COLUMN_BYTES * (1 if metadata is None else 2)  # bytes of the activations that an instruction multiplies
    ptx.emit("wgmma.fence.sync.aligned")  # registers are ready
    for number in range(ROW_BYTES // span):
        name, source = product(b.params, sparse=metadata is not None)
        words = [] if metadata is None else [metadata.ptr_to([number])]
        call(name, source, sums.data, fragments.ptr_to([number * 4]), descriptor(b, activations + number * span),
             *words)
    ptx.emit("wgmma.commit_group.sync.aligned")
    ptx.emit("wgmma.wait_group.sync.aligned", IN_FLIGHT)


def descriptor(b: Block, at: Expr) -> Expr:
    """What names rows of 128 bytes from a byte of shared memory on, in the 128-byte swizzle."""
    address = T.bitwise_and(b.shared + T.Cast("uint32", at), T.uint32(ADDRESS))
    return T.bitwise_or(T.Cast("uint64", T.shift_right(address, T.uint32(4))), T.uint64(DESCRIPTOR))


def _publish() -> None:
    """Show what this thread's copies wrote to the tensor cores' own path to shared memory."""
    ptx.emit("fence.proxy.async.shared::cta")


def finish(b: Block, sums: Buffer) -> None:
    """Wait for all products; the compiler must not touch sums before."""
    count, (kind, letter) = b.params.tile.columns // 2, _sums(b.params)
    name = f"wgmma_finish_{letter}_n{b.params.tile.columns}"
    outputs = ", ".join(f'"+{letter}"(d[{i}])' for i in range(count))
    call(name, f"""__forceinline__ __device__ void {name}({kind}* d) {{
  asm volatile("wgmma.wait_group.sync.aligned 0;" : {outputs} : : "memory");
}}
""", sums.data)


def call(name: str, source: str, *operands: Expr) -> None:
    """Call a function of CUDA source."""
    T.evaluate(T.cuda.func_call(name, *operands, source_code=source, return_type="void"))


def _sums(p: MmaParams) -> tuple[str, str]:
    """The type of sums in CUDA, and the letter of their registers."""
    return ("unsigned", "r") if p.dtype == "int8" else ("float", "f")


def product(p: MmaParams, *, sparse: bool, selector: int = 0) -> tuple[str, str]:
    """Name and text of the function that holds the instruction, which names the lanes with metadata by a selector."""
    form, depth, types, scales = _instruction(p, sparse=sparse)
    kind, letter = _sums(p)
    columns, count = p.tile.columns, p.tile.columns // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    left = ", ".join(f"%{count + i}" for i in range(4))
    behind = f"%{count + 4}, " + f"%{count + 5}, {selector}, " * sparse + scales
    outputs = ", ".join(f'"+{letter}"(d[{i}])' for i in range(count))
    metadata = (", const unsigned* e", ', "r"(e[0])') if sparse else ("", "")
    name = f"wgmma{form}_{types}_n{columns}".replace(".", "_") + ("_odd" if selector else "")
    return name, f"""__forceinline__ __device__ void {name}(
    {kind}* d, const unsigned* a, unsigned long long b{metadata[0]}) {{
  asm volatile("wgmma.mma_async{form}.sync.aligned.m64n{columns}k{depth}.{types} {{{sums}}}, {{{left}}}, {behind};"
    : {outputs} : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b){metadata[1]});
}}
"""


def product_in_shared(p: MmaParams) -> tuple[str, str]:
    """Name and text of the function that holds the dense instruction with the weight in shared memory."""
    _, depth, types, scales = _instruction(p, sparse=False)
    kind, letter = _sums(p)
    columns, count = p.tile.columns, p.tile.columns // 2
    behind = f"%{count}, %{count + 1}, {scales}" + ", 0" * (p.dtype in ELEMENTS)  # the weight is rows of inputs
    sums = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+{letter}"(d[{i}])' for i in range(count))
    name = f"wgmma_shared_{types}_n{columns}".replace(".", "_")
    return name, f"""__forceinline__ __device__ void {name}(
    {kind}* d, unsigned long long a, unsigned long long b) {{
  asm volatile("wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.{types} {{{sums}}}, {behind};"
    : {outputs} : "l"(a), "l"(b));
}}
"""


def _instruction(p: MmaParams, *, sparse: bool) -> tuple[str, int, str, str]:
    """What tells the instruction from others: its form, inputs and types, and the operands behind its operands.

    These are that it adds to the sums, then, of floats, that neither operand is negated, then, of halves, that the
    activations are rows of inputs.
    """
    form, depth = (".sp", 64) if sparse else ("", 32)
    if p.dtype in ELEMENTS:
        element = ELEMENTS[p.dtype]
        return form, depth // 2, f"f32.{element}.{element}", "1, 1, 1, 0"
    return form, depth, BYTES[p.x or p.dtype], "1" if p.dtype == "int8" else "1, 1, 1"


def _multiply_dense(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
    """A stage of `mma_dense`'s packing."""
    count = 2 * b.params.tile_steps
    values = ptx.registers(count * 4)
    for number in range(count):
        _load_fragment(b, values, base, number, count)
    _multiply(b, sums, values, activations)


def _multiply_sparse(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
    """A stage of `mma_sp`'s packing."""
    p = b.params
    values, words = ptx.registers(p.tile_steps * 4), ptx.registers(p.tile_steps)
    lane = b.lane
    if p.itemsize == 2:
        # All warps of a group name the same selector, 0; those with an odd block of rows read its lanes from selector
        # 1's.
        lane = T.Bind(b.lane // 4 * 4 + b.lane % 2 + b.warp_row % 2 * 2)
    for step in range(p.tile_steps):
        word = T.truncdiv(b.warp_row, p.itemsize) * p.tile_steps + step
        _load_fragment(b, values, base, step, p.tile_steps)
        ptx.load_words(words, step, 1, b.shared, base + mma_sp.values_bytes(p) + word * mma_sp.WORDS_BYTES + lane * 4)
    _multiply(b, sums, values, activations, words)


def _load_fragment(b: Block, to: Buffer, base: Expr, number: int, count: int) -> None:
    """One of the `count` fragments of the warp's rows in a stage, which lie one after another, into its registers."""
    fragment = b.warp_row * count + number
    ptx.load_words(to, number * 4, 4, b.shared, base + fragment * FRAGMENT_BYTES + b.lane * VECTOR_BYTES)


def dense_weight(p: MmaParams) -> pipeline.Weight:
    """How a dense weight reaches the warp groups, of halves or of bytes."""
    return _weight(mma_dense.weight, _multiply_dense, p)


def sparse_weight(p: MmaParams) -> pipeline.Weight:
    """How a 2:4 weight reaches the warp groups, of halves or of bytes."""
    return _weight(mma_sp.weight, _multiply_sparse, p)


def _weight(warps: Callable[[P], pipeline.Weight], multiply: Multiply, p: P) -> pipeline.Weight:
    """The weight of a kernel of single warps for one of warp groups.

    Its bytes in a stage are such that the activations behind them lie where the swizzle wants them.
    """
    weight = warps(p)
    aligned = -(-weight.stage_bytes // ptx.SWIZZLE_BYTES) * ptx.SWIZZLE_BYTES
    return replace(weight, stage_bytes=aligned, multiply=multiply, publish=_publish, in_flight=IN_FLIGHT,
                   finish=finish)


def _family(name: str, packing: GpuFamily[MmaParams], warps: Callable[[MmaParams], pipeline.Weight], pack: Pack,
            multiply: Multiply) -> GpuFamily[MmaParams]:
    """The family that multiplies by warp groups what a family of single warps packs."""
    return family(name, packing.formats, weight=partial(_weight, warps, multiply), pack=pack,
                  unpack=packing.unpack, params=packing.params, refuses=refuses, sparse=packing.sparse,
                  tiles=WARP_GROUP_TILES, architecture=ARCHITECTURE, packed_by=by_shape)


def _refuses_blocks(p: MmaParams) -> str | None:
    """Why no kernel of warp groups multiplies slices, or None; they gather."""
    gathers = f"threads that gather need more registers than {p.tile.threads} of them have"
    return refuses(p) or blocks.refuses(p) or (gathers if p.tile.threads > GATHERING_THREADS else None)


DENSE = _family("wgmma", mma_dense.FAMILY, mma_dense.weight, mma_dense.pack, _multiply_dense)
SPARSE = _family("wgmma.sp", mma_sp.FAMILY, mma_sp.weight, mma_sp.pack, _multiply_sparse)
BLOCKS: GpuFamily[blocks.BlockParams] = family(
    "wgmma blocks", (blocks.FORMAT,), weight=partial(_weight, blocks.operand, _multiply_dense), pack=blocks.pack,
    unpack=blocks.unpack, params=blocks.params, refuses=_refuses_blocks, extra_work=blocks.extra_work,
    reject=blocks.reject, tiles=tuple(tile for tile in WARP_GROUP_TILES if tile.columns > LEAST_COLUMNS
                                      and tile.threads <= GATHERING_THREADS), architecture=ARCHITECTURE)
