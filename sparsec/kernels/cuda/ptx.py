"""Small vocabulary for writing kernels for tensor cores with TVM's IR builder: registers, copies, matrix fragments.

Shared memory is one block of bytes behind an address in a register, which only these instructions use: TVM, which
knows of no access, adds no barriers of its own and has no regions to analyse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Buffer, Expr

PAIRS = {"float16": "f16x2", "bfloat16": "bf16x2"}
SWIZZLE_BYTES = 1024  # to which the widest swizzle that the hardware knows is aligned


def emit(instruction: str, *operands: Expr) -> None:
    """One instruction of PTX by its full name."""
    T.evaluate(_found(instruction)(*operands))


@cache
def _found(instruction: str) -> Callable[..., Expr]:
    """What makes calls of an instruction, which TVM looks up by trying all forms of it."""
    found: Callable[..., Expr] = T.ptx[instruction]
    return found


def barrier() -> None:
    """Wait for every thread of the block."""
    T.evaluate(T.cuda.cta_sync())


def warp_barrier() -> None:
    """Wait for every lane of the warp."""
    T.evaluate(T.cuda.warp_sync())


def cluster_barrier() -> None:
    """Wait for every thread of the cluster; what they wrote to shared memory is seen."""
    emit("barrier.cluster.arrive.release")
    emit("barrier.cluster.wait.acquire")


def in_block(to: Buffer, at: int, shared: Expr, rank: int) -> None:
    """The address that an address of shared memory has in a block of the cluster."""
    emit("mapa.shared::cluster.u32", to[at], shared, T.uint32(rank))


def registers(count: int, dtype: str = "uint32") -> Buffer:
    """A local array; with constant indices it stays in registers."""
    return T.alloc_buffer((count,), dtype, scope="local")


def shared_memory(nbytes: int) -> Expr:
    """The address of the block's dynamic shared memory."""
    buffer = T.alloc_buffer((nbytes,), "uint8", scope="shared.dyn", align=SWIZZLE_BYTES)
    return T.Bind(T.cuda.cvta_generic_to_shared(buffer.data))


def _address(shared: Expr, at: Expr) -> Expr:
    return shared + T.Cast("uint32", at)


def copy_async(shared: Expr, at: Expr, source: Buffer, index: Expr, nbytes: int, valid: Expr = None) -> None:
    """Start copying `nbytes` (4, 8 or 16) from `source[index]` on to byte `at`; zeros where `valid` is false."""
    cache = "cg.shared.global.L2::128B" if nbytes == 16 else "ca.shared.global"
    operands = [_address(shared, at), source.ptr_to([_safe(index, valid)]), nbytes]
    if valid is not None:
        operands.append(T.Cast("uint32", T.if_then_else(valid, nbytes, 0)))
    emit(f"cp.async.{cache}", *operands)


def copy_element(shared: Expr, at: Expr, source: Buffer, index: Expr, valid: Expr = None) -> None:
    """Copy 2 bytes from `source[index]` on to byte `at`; zeros where `valid` is false."""
    element = registers(1, "uint16")
    T.buffer_store(element, T.uint16(0), [0])
    if valid is None:
        emit("ld.global.b16", element[0], source.ptr_to([index]))
    else:
        with T.If(valid), T.Then():
            emit("ld.global.b16", element[0], source.ptr_to([_safe(index, valid)]))
    emit("st.shared.b16", _address(shared, at), element[0])


def _safe(index: Expr, valid: Expr) -> Expr:
    return index if valid is None else T.if_then_else(valid, index, 0)


def commit() -> None:
    """Close the group of the copies started so far."""
    emit("cp.async.commit_group")


def wait(pending: int) -> None:
    """Wait until at most `pending` groups of this thread's copies are under way."""
    emit("cp.async.wait_group", pending)


def load_matrices(to: Buffer, shared: Expr, at: Expr, transposed: bool,  # noqa: FBT001 (the instruction's modifier)
                  first: int = 0) -> None:
    """Four 8 x 8 matrices of 16-bit elements into four registers; lane i names the i-th row of 16 bytes."""
    modifier = ".trans" if transposed else ""
    emit(f"ldmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16", *_words(to, first, 4), _address(shared, at))


def load_words(to: Buffer, first: int, count: int, shared: Expr, at: Expr) -> None:
    """`count` (1, 2 or 4) words from byte `at` into the registers from `first` on."""
    vector = f".v{count}" if count > 1 else ""
    kind = "f32" if to.dtype == "float32" else "b32"
    emit(f"ld.shared{vector}.{kind}", *_words(to, first, count), _address(shared, at))


def load_of_cluster(to: Buffer, first: int, count: int, shared: Expr, at: Expr) -> None:
    """`count` (1, 2 or 4) words from byte `at` of a block of the cluster into the registers from `first` on."""
    vector = f".v{count}" if count > 1 else ""
    kind = "f32" if to.dtype == "float32" else "b32"
    emit(f"ld.shared::cluster{vector}.{kind}", *_words(to, first, count), _address(shared, at))


def load_global(to: Buffer, first: int, count: int, source: Buffer, index: Expr, modifier: str = "") -> None:
    """`count` (1, 2 or 4) words from `source[index]` on into the registers from `first` on."""
    vector = f".v{count}" if count > 1 else ""
    emit(f"ld.global{modifier}{vector}.b32", *_words(to, first, count), source.ptr_to([index]))


def store_words(shared: Expr, at: Expr, words: Sequence[Expr]) -> None:
    """One, two or four words to byte `at`."""
    vector = f".v{len(words)}" if len(words) > 1 else ""
    emit(f"st.shared{vector}.b32", _address(shared, at), *words)


def store_floats(shared: Expr, at: Expr, values: Sequence[Expr]) -> None:
    """One, two or four floats to byte `at`."""
    vector = f".v{len(values)}" if len(values) > 1 else ""
    emit(f"st.shared{vector}.f32", _address(shared, at), *values)


def exp2(to: Buffer, at: int, value: Expr) -> None:
    """2 to the power of a float, with a relative error of 2^-22; zero where that would be subnormal."""
    emit("ex2.approx.ftz.f32", to[at], value)


def pack_halves(to: Buffer, at: int, low: Expr, high: Expr, dtype: str) -> None:
    """Two floats, rounded to a half-precision type, as one register."""
    emit(f"cvt.rn.{PAIRS[dtype]}.f32", to[at], high, low)


def dot_bytes(to: Buffer, at: int, left: Expr, right: Expr, added: Expr) -> None:
    """The sum of the products of four unsigned bytes each, and another number."""
    emit("dp4a.u32.u32", to[at], left, right, added)


def permute_bytes(to: Buffer, at: int, low: Expr, high: Expr, selector: Expr) -> None:
    """A word whose bytes are those of two words that the selector's four digits name, from the lowest on."""
    emit("prmt.b32", to[at], low, high, selector)


def widened(word: Expr, dtype: str) -> tuple[Expr, Expr]:
    """The two halves of a word as floats."""
    if dtype == "bfloat16":  # the upper half of a float
        words = T.shift_left(word, T.uint32(16)), T.bitwise_and(word, T.uint32(0xFFFF0000))
        return T.reinterpret("float32", words[0]), T.reinterpret("float32", words[1])
    halves = word, T.shift_right(word, T.uint32(16))
    low, high = (T.Cast("float32", T.reinterpret(dtype, T.Bind(T.Cast("uint16", half)))) for half in halves)
    return low, high


def multiply(instruction: str, sums: Buffer, first: int, left: Sequence[Expr], right: Sequence[Expr],
             sparsity: Sequence[Expr] = ()) -> None:
    """Add a product of fragments to the four sums from `first` on; `sparsity` is metadata and selector."""
    total = _words(sums, first, 4)
    emit(instruction, *total, *left, *right, *total, *sparsity)


def _words(buffer: Buffer, first: int, count: int) -> list[Expr]:
    return [buffer[first + i] for i in range(count)]
