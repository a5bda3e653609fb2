"""Small vocabulary for writing TIR kernels with TVM's IR builder: vectors, loops and the frame of a kernel.

A kernel is a private PrimFunc over flat buffers with destination passing: inputs first, outputs last. Buffers whose
length is None have a length that the call decides, so that layers which differ only in their non-zeros share one
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

# TVM's names, which the type checker does not look into.
Expr: TypeAlias = tvm.tirx.Expr
"""An expression of a kernel, a scalar or a vector, or a Python number that stands for one."""
Buffer: TypeAlias = tvm.tirx.Buffer
"""An array: an argument, or registers."""
Buffers: TypeAlias = Mapping[str, Buffer]
"""A kernel's arguments by name."""
Kernel: TypeAlias = tvm.tirx.PrimFunc
Body: TypeAlias = Callable[[Buffers], None]
"""Emits a kernel's statements for the buffers by name."""

# Keeps LLVM's registers: without it TVM may turn a local accumulator into a heap workspace.
REGISTER = {"disable_lower_builtin": tvm.tirx.const(1, "bool")}


@dataclass(frozen=True)
class Frame:
    """What stands around a kernel's statements where another kernel repeats them.

    Attributes:
        replaced: the kernel's arguments that the frame allocates itself.
        arguments: its own, in their place.
        body: emits all statements, from the buffers and what emits the kernel's for the buffers with those replaced.
        views: its own arguments may begin anywhere in arrays, aligned to an element only.

    """

    replaced: tuple[str, ...]
    arguments: Mapping[str, tuple[int | None, str]]
    body: Callable[[Buffers, Body], None]
    views: bool = False


@dataclass
class Part:
    """A kernel that is none of its own, but a part of another: its arguments, and what emits its statements."""

    arguments: Mapping[str, tuple[int | None, str]] = field(default_factory=dict)
    body: Body = lambda _: None


_FRAME: ContextVar[Frame | None] = ContextVar("frame", default=None)
_PART: ContextVar[Part | None] = ContextVar("part", default=None)


def part_of(make: Callable[[], Kernel]) -> Part:
    """The kernel that `make` makes, as a part of another one that has its LLVM functions."""
    part = Part()
    token = _PART.set(part)
    try:
        make()
    finally:
        _PART.reset(token)
    return part


@contextmanager
def framed(frame: Frame) -> Iterator[None]:
    """Kernels that are made inside get a frame."""
    token = _FRAME.set(frame)
    try:
        yield
    finally:
        _FRAME.reset(token)


def kernel(arguments: Mapping[str, tuple[int | None, str]], body: Body, llvm: str = "", *,
           views: bool = False) -> Kernel:
    """A PrimFunc over flat buffers.

    Args:
        arguments: name -> (length in elements or None, dtype), inputs first and outputs last.
        body: emits the kernel's statements for the buffers by name.
        llvm: LLVM IR of the functions that the body calls, linked into the module.
        views: the buffers may begin anywhere in arrays, aligned to an element only.

    """
    if (part := _PART.get()) is not None:
        part.arguments, part.body, arguments, body = arguments, body, {}, lambda _: None
    own: frozenset[str] = frozenset(arguments if views else ())
    if part is None and (frame := _FRAME.get()) is not None:
        own |= frozenset(frame.arguments if frame.views else ())
        kept = {name: each for name, each in arguments.items() if name not in frame.replaced}
        arguments, body = {**kept, **frame.arguments}, partial(_surrounded, frame, body)
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_attr({"tirx.noalias": True})
        buffers = {}
        for name, (length, dtype) in arguments.items():
            size = T.var("int64", f"{name}_length") if length is None else length
            align = np.dtype(dtype).itemsize if name in own else 0  # 0 is TVM's own, a vector or more
            buffers[name] = T.arg(name, T.buffer((size,), dtype, align=align))
        with T.sblock("root"):
            T.reads()
            T.writes()
            with T.attr(T.int32(0), "pragma_import_llvm", llvm) if llvm else nullcontext():
                body(buffers)
    return builder.get()


def _surrounded(frame: Frame, body: Body, buffers: Buffers) -> None:
    frame.body(buffers, body)


def parallel(threads: int, body: Callable[[Expr], None]) -> None:
    """`body(thread)` on every thread; without a loop where there is one only."""
    if threads == 1:
        body(0)
    else:
        with T.parallel(0, threads) as thread:
            body(thread)


def registers(vectors: int, lanes: int, dtype: str = "float32") -> Buffer:
    """A local buffer that LLVM keeps in `vectors` vector registers."""
    return T.alloc_buffer((vectors * lanes,), dtype, scope="local", annotations=REGISTER)


def whole_buffer(shape: tuple[int, ...], dtype: str = "float32") -> Buffer:
    """A buffer of a kernel's own that registers index: TIR would shrink it by formulas that hold what these held."""
    buffer = T.alloc_buffer(shape, dtype)
    T.evaluate(buffer.access_ptr("rw"))
    return buffer


def load(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    """The vector of `lanes` elements at `index`."""
    return buffer[T.Ramp(index, 1, lanes) if lanes > 1 else index]


def vectors_from(buffer: Buffer, first: Expr, lanes: int) -> Callable[[Expr], Expr]:
    """The vectors of a buffer by number, counted from its element `first` on."""
    return lambda vector: load(buffer, first + vector * lanes, lanes)


def store(buffer: Buffer, index: Expr, vector: Expr) -> None:
    """Store a vector at `index`."""
    lanes = lanes_of(vector)
    T.buffer_store(buffer, vector, [T.Ramp(index, 1, lanes) if lanes > 1 else index])


def add_to(buffer: Buffer, index: Expr, vector: Expr) -> None:
    """Add a vector to the one stored at `index`."""
    store(buffer, index, load(buffer, index, lanes_of(vector)) + vector)


def held(vector: Expr) -> Expr:
    """The vector in a register: what `Bind` holds instead, TIR's simplifier writes out wherever a condition uses it."""
    lanes = lanes_of(vector)
    register = registers(1, lanes, str(vector.ty).partition("x")[0])
    store(register, 0, vector)
    return load(register, 0, lanes)


def prefetch(buffer: Buffer, index: Expr, level: int = 1, *, write: bool = False) -> None:
    """Ask the cache of a level for the line at `index`, which may lie beyond the buffer's end, to `write` it or not."""
    arguments = (T.int32(int(write)), T.int32(4 - level), T.int32(1))  # the last: data
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", T.address_of(buffer[index]), *arguments))


def lanes_of(vector: Expr) -> int:
    """Elements of a vector expression."""
    return int(tvm.DataType(str(vector.ty)).lanes)


def splat(value: Expr, lanes: int) -> Expr:
    """A vector of equal elements from a float or a float32 expression."""
    if isinstance(value, int | float):
        value = T.float32(value)
    return T.Broadcast(value, lanes) if lanes > 1 else value
