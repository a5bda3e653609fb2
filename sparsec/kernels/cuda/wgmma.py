"""Hopper's warp-group instructions, `wgmma.mma_async` and its sparse form: four warps multiply 64 rows at once.

The weight comes from registers, in the fragments and metadata that `mma` and `mma.sp` take, and the activations from
shared memory behind a descriptor: the swizzle of `staging.py`, on rows of 128 bytes, is the hardware's own 128-byte
swizzle. TVM has no sparse `wgmma`, so the instruction is a function of CUDA source. For sm_90a only.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.params import MmaParams

ROW_BYTES = 128
WARPS = 4  # of a warp group
ELEMENTS = {"float16": "f16", "bfloat16": "bf16"}

# Fields of a descriptor: 8 rows apart in units of 16 bytes from bit 32, the 128-byte swizzle in bits 62 and 63.
DESCRIPTOR = 8 * ROW_BYTES // 16 << 32 | 1 << 62 | 1 << 16
ADDRESS = 0x3FFFF


def reject(p: MmaParams) -> str | None:
    """Why no kernel of warp groups computes the product, or None."""
    t = p.tile
    if p.dtype not in ELEMENTS or p.layout != "nk":
        return "warp groups multiply 2-byte activations, tokens first"
    if t.depth * p.itemsize != ROW_BYTES:
        return f"a stage of warp groups is {ROW_BYTES} bytes deep"
    if t.warps[0] % WARPS or t.warps[1] != 1 or t.rows != 16 * t.warps[0]:
        return "a warp group has four warps, each with 16 rows and all columns of the tile"
    return None


def aligned(stage_bytes: int) -> int:
    """Bytes of a weight's stage such that the activations behind it lie where the swizzle wants them."""
    return -(-stage_bytes // ptx.SWIZZLE_BYTES) * ptx.SWIZZLE_BYTES


def publish() -> None:
    """Show what this thread's copies wrote to the tensor cores' own path to shared memory."""
    ptx.emit("fence.proxy.async")


def begin() -> None:
    """Order registers before the instructions that follow."""
    ptx.emit("wgmma.fence.sync.aligned")


def end() -> None:
    """Wait for the instructions since `begin`."""
    ptx.emit("wgmma.commit_group.sync.aligned")
    ptx.emit("wgmma.wait_group.sync.aligned", 0)


def multiply(b: Block, sums: Any, left: list[Any], activations: Any, offset: int, metadata: Any = None) -> None:
    """Start adding a product to the warp group's sums.

    Args:
        b: the block.
        sums: the warp's sums.
        left: the four registers of the weight's fragment.
        activations: the byte at which the stage's activations lie.
        offset: bytes along K at which the instruction's activations begin.
        metadata: of a 2:4 fragment, for the sparsity selector 0.

    """
    name, source = _function(b.params, metadata is not None)
    address = T.bitwise_and(b.shared + T.Cast("uint32", activations + offset), T.uint32(ADDRESS))
    descriptor = T.bitwise_or(T.Cast("uint64", T.shift_right(address, T.uint32(4))), T.uint64(DESCRIPTOR))
    operands = [*left, descriptor, *([] if metadata is None else [metadata])]
    T.evaluate(T.cuda.func_call(name, sums.data, *operands, source_code=source, return_type="void"))


def _function(p: MmaParams, sparse: bool) -> tuple[str, str]:  # noqa: FBT001 (the two forms of one instruction)
    """Name and text of the function that holds the instruction."""
    columns, element = p.tile.columns, ELEMENTS[p.dtype]
    count = columns // 2
    form, depth = (".sp", 32) if sparse else ("", 16)
    instruction = f"wgmma.mma_async{form}.sync.aligned.m64n{columns}k{depth}.f32.{element}.{element}"
    sums = ", ".join(f"%{i}" for i in range(count))
    left = ", ".join(f"%{count + i}" for i in range(4))
    selected = f", %{count + 5}, 0" if sparse else ""
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    metadata = (", unsigned e", ', "r"(e)') if sparse else ("", "")
    name = f"wgmma{form.replace('.', '_')}_{element}_n{columns}"
    return name, f"""__forceinline__ __device__ void {name}(
    float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned long long b{metadata[0]}) {{
  asm volatile("{instruction} {{{sums}}}, {{{left}}}, %{count + 4}{selected}, 1, 1, 1, 0;"
    : {outputs} : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b){metadata[1]});
}}
"""
