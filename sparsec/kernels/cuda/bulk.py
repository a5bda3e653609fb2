"""Hopper's bulk copies (TMA) and the barriers in shared memory that they complete, for sm_90 and newer.

A barrier counts arrivals and bytes. The thread that starts copies arrives once and says how many bytes are to come; the
barrier's phase ends when they are there. Phases alternate in parity, by which threads wait for the end of one.
"""

from __future__ import annotations

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.emit.tir import Buffer, Expr

BARRIER_BYTES = 8
SWIZZLE_128 = 3  # of cuTensorMapEncodeTiled
PROMOTION_256 = 3  # to the L2 cache, of the same
BYTES = "uint8"  # of maps, whatever they stand for
COMPLETE = "mbarrier::complete_tx::bytes"


def init(barrier: Expr, arrivals: int) -> None:
    """Make a barrier whose phases end with so many arrivals; `publish` shows it to others."""
    ptx.emit("mbarrier.init.shared::cta.b64", barrier, arrivals)


def publish() -> None:
    """Show new barriers to the copies; a barrier of the block shows them to its threads."""
    ptx.emit("fence.mbarrier_init.release.cluster")


def expect(barrier: Expr, nbytes: int) -> None:
    """Arrive, and say how many bytes the phase waits for."""
    ptx.emit("mbarrier.arrive.expect_tx.shared::cta.b64", barrier, nbytes)


def arrive(barrier: Expr) -> None:
    """Arrive."""
    ptx.emit("mbarrier.arrive.shared::cta.b64", barrier)


def wait(barrier: Expr, parity: Expr) -> None:
    """Wait for the end of the phase of a parity; phases are numbered from 0, and the one before that has ended.

    There is no limit to how often it asks: with a trap in the loop, ptxas ignores `setmaxnreg` and serialises products.
    """
    done = ptx.registers(1)
    T.buffer_store(done, T.uint32(0), [0])
    name = "mbarrier_has_ended"
    source = f"""__forceinline__ __device__ void {name}(unsigned* d, unsigned b, unsigned p) {{
  asm volatile("{{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}}"
    : "=r"(d[0]) : "r"(b), "r"(p) : "memory");
}}
"""
    with T.While(done[0] == T.uint32(0)):
        T.evaluate(T.cuda.func_call(name, done.data, barrier, parity, source_code=source, return_type="void"))


def matrix_map(source: Buffer, rows: int, columns: int, box_rows: int, box_columns: int) -> Expr:
    """A map of a matrix of bytes or halves for copies of boxes, whose rows of 128 bytes are swizzled; on the host."""
    dtype = np.dtype(str(source.dtype))
    descriptor = T.Bind(T.tvm_stack_alloca("tensormap", 1))
    T.evaluate(T.tensormap_encode_tiled(
        descriptor, source.data, columns, rows, columns * dtype.itemsize, box_columns, box_rows, 1, 1,
        descriptor_dtype=BYTES if dtype.itemsize == 1 else str(dtype), rank=2, swizzle=SWIZZLE_128,
        l2_promotion=PROMOTION_256))
    return descriptor


def copy_box(to: Expr, matrix: Expr, row: Expr, column: Expr, barrier: Expr) -> None:
    """Start copying the box whose first element a row and a column name; zeros beyond the matrix."""
    ptx.emit(f"cp.async.bulk.tensor.2d.shared::cluster.global.{COMPLETE}", to, T.address_of(matrix), column, row,
             barrier)


def copy(to: Expr, source: Buffer, index: Expr, nbytes: int, barrier: Expr) -> None:
    """Start copying bytes, a multiple of 16, as they lie."""
    ptx.emit(f"cp.async.bulk.shared::cluster.global.{COMPLETE}", to, source.ptr_to([index]), nbytes, barrier)


def limit_registers(count: int, *, more: bool) -> None:
    """Change how many registers each thread of a warp group has."""
    ptx.emit(f"setmaxnreg.{'inc' if more else 'dec'}.sync.aligned.u32", count)
