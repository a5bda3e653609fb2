"""The kernels of an artifact for run-time sizes on a device, with what each takes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsec.backends.program import EMBEDDED, WORKSPACE
from sparsec.errors import ArtifactError
from sparsec.machine.memory import carrier, element_type
from sparsec.runtime.sized.device_caches import Caches
from sparsec.runtime.sized.rows import Splitter, Tensor

Library = tuple[Any, Sequence[Mapping[str, Any]]]
"""A library, and its functions in order as the plan tells them."""
Place = tuple[int, int]
"""The number of a base (inputs, then outputs), or `WORKSPACE`, or the number of a constant as `CONSTANT - number`; and
bytes from where it begins."""
CONSTANT = -2
Weight = tuple[Any, int]
"""A constant of the device, and how many floats it has."""
Call = tuple[Any, Sequence[tuple[Place, tuple[int, ...], str]]]
"""A kernel, and of what it takes the place, shape and element type."""


class DeviceKernels:
    """Those of a program, which all of its runners share.

    Args:
        stages: by number of rows.
        tensors: the constants on the device, by number.
        shared: the library of the kernels between stages.
        attention: of each attention what the plan tells.
        half: the type of floats between stages.
        weights: of convolutions by channel, by name.
        recurrences: the constants of each, in the order in which its kernel takes them.

    Attributes:
        resident: by name and element type the memory and the tensor of constants that kernels between stages read.
        standing: the arrays that stand for these.
        once: who holds it enters one of either, which nobody replaces: tapes know both by their addresses.

    """

    def __init__(self, stages: Mapping[int, Library], tensors: Mapping[int, Any], shared: Any,
                 attention: Sequence[Mapping[str, Any]], half: str, weights: Mapping[str, Weight],
                 recurrences: Sequence[Sequence[Weight]]) -> None:
        self._stages, self.tensors, self._shared, self.attention = stages, tensors, shared, attention
        self.half, self.weights, self.recurrences = half, weights, recurrences
        self.resident: dict[tuple[str, str], tuple[Any, Any]] = {}
        self.standing: dict[tuple[str, str], Any] = {}
        self.once = threading.Lock()
        self._calls: dict[tuple[int, int], list[Call]] = {}
        self._functions: dict[str, Any] = {}

    def workspace(self, number: int, count: int) -> int:
        """Bytes that a stage needs for so many rows, beside what it reads and gives."""
        return int(self._stages[count][1][number]["calls"]["workspace"])

    def stage(self, number: int, count: int, given: Sequence[Tensor], made: Sequence[Tensor]) -> list[Call]:
        """What a stage does for a number of rows.

        Raises:
            ArtifactError: its kernels take something else than it reads and gives.

        """
        if (number, count) not in self._calls:
            calls = self._stage(number, count, len(given))
            tensors = [*given, *made]
            for _, operands in calls:
                for (place, offset), shape, dtype in operands:
                    if place >= 0 and (offset or not _holds(tensors[place], count, shape, dtype)):
                        raise ArtifactError(f"a kernel of stage {number} takes {dtype} of shape {shape} for rows of "
                                            f"{tensors[place].dtype.name} {tensors[place].shape}; compile the model "
                                            "again")
            self._calls[number, count] = calls
        return self._calls[number, count]

    def between(self, name: str) -> Any:
        """A kernel of run-time sizes.

        Raises:
            ArtifactError: the artifact has none of the name.

        """
        if name not in self._functions:
            try:
                self._functions[name] = _function(self._shared, name)
            except AttributeError as error:
                raise ArtifactError(f"the artifact has no kernel '{name}'; compile the model again") from error
        return self._functions[name]

    def _stage(self, number: int, count: int, given: int) -> list[Call]:
        """`stage`, of so many inputs."""
        library, functions = self._stages[count]
        function = functions[number]
        constants, embedded = function["constants"], function["calls"]["embedded"]
        last = given + len(constants)

        def place(where: int, offset: int) -> Place:
            if where == WORKSPACE:
                return WORKSPACE, offset
            if where <= EMBEDDED:
                return CONSTANT - embedded[EMBEDDED - where], offset
            if given <= where < last:
                return CONSTANT - constants[where - given], offset
            return where if where < given else where - len(constants), offset

        try:
            return [(_function(library, kernel), [(place(where, offset), tuple(shape), dtype)
                                                  for where, offset, shape, dtype in operands])
                    for kernel, operands in function["calls"]["kernels"]]
        except (IndexError, TypeError) as error:
            raise ArtifactError(f"the artifact's plan contradicts itself ({error}); compile the model again") from error


@dataclass(frozen=True)
class Plan:
    """What runners of a program share.

    Attributes:
        kernels: of the device.
        steps: of the plan, as it tells them.
        runs: what runs each step on numpy; None for those of the device alone.
        spent: by step, what none behind it needs.
        outputs: the values that are outputs.
        splitter: how rows are divided.
        caches: those that one graph serves at every length, if there are such.
        halves: the element types of values that the model itself has in half precision.
        conditions: the places of inputs that choose branches, of which each has tapes of its own.
        constants: the values that are the same in all calls.

    """

    kernels: DeviceKernels
    steps: Sequence[Mapping[str, Any]]
    runs: Sequence[Callable[..., Any] | None]
    spent: Sequence[Sequence[str]]
    outputs: Sequence[str]
    splitter: Splitter
    caches: Caches | None = None
    halves: Mapping[str | None, str] = field(default_factory=dict)
    conditions: Sequence[int] = ()
    constants: Collection[str | None] = ()


def _holds(tensor: Tensor, count: int, shape: Sequence[int], dtype: str) -> bool:
    """Whether so many rows are what a kernel takes."""
    nbytes = math.prod(tensor.of_rows(count)) * tensor.dtype.itemsize
    return carrier(dtype) == tensor.carrier and math.prod(shape) * element_type(dtype).itemsize == nbytes


def _function(library: Any, name: str) -> Any:
    return library.get_function(name, query_imports=True)
