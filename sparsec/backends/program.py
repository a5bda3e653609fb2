"""What a backend hands to the artifact: a compiled library, its constants and its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # sessions import this module, and most programs need no packing
    from sparsec.kernels.packing import Recipe

STAGES = "stages"
"""The entry of programs without a library of their own, whose constants are programs to run one after the other."""

SIZED = "sized"
"""The entry of programs for sizes that the run tells: their constants are a plan, libraries, and what these need."""

BIND, CALL = "sparsec_bind", "sparsec_call"
"""Functions of a library that do what its entry does, without a virtual machine. `BIND` takes the inputs, constants, a
workspace, outputs and a table, checks them, and writes their addresses into the table; `CALL` takes the table."""

REPLAY = "sparsec_replay"
"""The function of a library that runs a list of blocks of calls; see `backends.cpu.replay`."""

Needs = Mapping[str, tuple[str | int, ...]]
"""What a program needs of a machine beside the processor's features: whatever its backend has written there."""

UNKNOWN = -1
"""A size that only the run tells."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name in the ONNX model, numpy dtype name and shape, static but for `UNKNOWN` sizes."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A weight that some of a program's constants follow from.

    Attributes:
        weight: (outputs, inputs).
        recipe: how.
        constants: the numbers of the constants that the recipe's arrays are, in order.

    """

    weight: np.ndarray = field(repr=False)
    recipe: Recipe
    constants: tuple[int, ...]


WORKSPACE = -1
"""The place of a tensor in a function's workspace."""
EMBEDDED = -2
"""The place of the first of the constants that are compiled into a function; the others' are below."""


@dataclass(frozen=True)
class Operand:
    """A tensor of a function, as a kernel takes it.

    Attributes:
        place: the number of the argument or, behind these, of the result whose memory it has; or `WORKSPACE`, or
            `EMBEDDED` less the number of an embedded constant.
        offset: bytes from where that begins.

    """

    place: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Calls:
    """What a function does: it calls kernels of its library in order.

    Attributes:
        workspace: bytes that it needs beside its arguments and results.
        kernels: by call the kernel's name, and what it takes.
        embedded: constants that are compiled into the function.

    """

    workspace: int
    kernels: tuple[tuple[str, tuple[Operand, ...]], ...]
    embedded: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Function:
    """A function of a library: it takes its inputs in order, then the constants; returns a tuple of outputs.

    Attributes:
        calls: what it does, None where that is more than to call kernels.

    """

    entry: str
    constants: tuple[np.ndarray, ...]
    calls: Calls | None = None


@dataclass(frozen=True)
class Functions:
    """A compiled library of several functions, and what it needs, as `Program` describes one."""

    library: bytes
    objects: tuple[int, ...]
    functions: tuple[Function, ...]
    needs: Needs = field(default_factory=dict)


Later = Callable[[], Functions]
"""Waits for a library that is being compiled."""


@dataclass(frozen=True)
class Program:
    """A compiled model that TVM's runtime alone can execute.

    Attributes:
        library: a shared object (ELF) holding a Relax VM executable, or the object files of one, one after the other.
        entry: the VM function; it takes the inputs in order, then every constant in order; returns a tuple of outputs.
        constants: the weights and tables as the kernels read them; each is given to the VM 64-byte aligned.
        inputs: the signature's inputs, in order.
        outputs: the signature's outputs, in order.
        objects: the bytes of each object file in `library`; empty where it is a shared object.
        packed: what an artifact may store instead of constants.
        needs: what it needs of a machine beside the processor's features, as its backend reads it.
        parts: the calls of `entry` that make an inference; each takes and returns an equal share of the rows, in order.
        workspace: bytes of memory that the library's functions `BIND` and `CALL` need, which do the same; None where it
            has none.

    """

    library: bytes
    entry: str
    constants: tuple[np.ndarray, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    objects: tuple[int, ...] = ()
    packed: tuple[Packed, ...] = ()
    needs: Needs = field(default_factory=dict)
    parts: int = 1
    workspace: int | None = None

    def repeated(self, parts: int) -> Program:
        """The program for so many times the rows, which it computes part by part."""
        def whole(spec: TensorSpec) -> TensorSpec:
            return replace(spec, shape=(parts * spec.shape[0], *spec.shape[1:]))

        return self if parts == 1 else replace(
            self, inputs=tuple(map(whole, self.inputs)), outputs=tuple(map(whole, self.outputs)), parts=parts)
