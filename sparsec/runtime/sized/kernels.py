"""The kernels of an artifact for run-time sizes as blocks: stages for every number of rows, and what is between."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsec.backends.program import EMBEDDED, REPLAY, UNKNOWN, WORKSPACE
from sparsec.errors import ArtifactError
from sparsec.graph.sized import IM2COL_CODES
from sparsec.machine.memory import aligned, element_type
from sparsec.machine.tvm_runtime import load
from sparsec.runtime.sized.blocks import UNBOUNDED, WORD, Argument, Block, Call

SIZES = 10
"""Elements of what kernels of windows are told; see `kernels.cpu.tensors.sized_windows`."""
Functions = Mapping[str, Any]
"""A function of a library as the plan tells it: its constants by number, and its calls of kernels."""
Libraries = Mapping[int, tuple[Any, Sequence[Functions]]]
"""By a number of rows a library, and its functions in order."""


class Kernels:
    """Blocks of one runner, in whose workspace one call works at a time.

    Args:
        stages: the stages of rows.
        recurrences: the same of the kernels of recurrences, by members of the batch.
        tensors: the constants by number.
        shared: the library of the kernels between stages.

    """

    def __init__(self, stages: Libraries, recurrences: Libraries, tensors: Mapping[int, Any], shared: Any) -> None:
        runtime = load()
        self._stages, self._recurrences, self._tensors, self._shared = stages, recurrences, tensors, shared
        self._share, self._type_of = runtime.from_dlpack, functools.cache(runtime.type_of)
        largest = max((function["calls"]["workspace"] for _, functions in stages.values() for function in functions
                       if function["calls"] is not None), default=0)
        self._workspace = aligned((max(1, largest),), np.dtype(np.uint8))
        self._replay = _function(shared, REPLAY)
        self._blocks: dict[tuple[Any, ...], Block] = {}

    @property
    def members(self) -> list[int]:
        """The numbers of members of a batch that there are kernels of recurrences for, the largest first."""
        return sorted(self._recurrences, reverse=True)

    def planned(self, number: int) -> bool:
        """Whether all functions of a stage do nothing but call kernels."""
        return all(functions[number]["calls"] is not None for _, functions in self._stages.values())

    def program(self, words: Sequence[int]) -> Callable[[], object]:
        """What runs operations of these words, as `backends.cpu.replay` describes them."""
        return functools.partial(self._replay, self._share(_words(words)))

    def once(self, number: int, given: int, made: int) -> tuple[Callable[[], object], np.ndarray]:
        """What runs a function of the library for one row, and its words: where the inputs lie, then the outputs."""
        block = self.stage(number, 1, (True,) * given, made)
        words = _words([1, block.address, 1, *[0] * (given + made)])
        return functools.partial(self._replay, self._share(words)), words[3:]

    def stage(self, *about: Any) -> Block:
        """`_stage`, made once."""
        return self._once(self._stage, *about)

    def windows(self, *about: Any) -> Block:
        """`_windows`, made once."""
        return self._once(self._windows, *about)

    def between(self, *about: Any) -> Block:
        """`_between`, made once."""
        return self._once(self._between, *about)

    def recurrence(self, *about: Any) -> Block:
        """`_recurrence`, made once."""
        return self._once(self._recurrence, *about)

    def _once(self, make: Callable[..., Block], *about: Any) -> Block:
        """What is made of these arguments, kept without a reference to this, so that weights go when a session does."""
        key = make.__name__, *about
        if key not in self._blocks:
            self._blocks[key] = make(*about)
        return self._blocks[key]

    def _stage(self, number: int, count: int, inputs: tuple[bool, ...], made: int,
               windows: tuple[tuple[int, str], ...] = ()) -> Block:
        """A stage for a number of rows: its bases are the first rows of its inputs, then of its outputs.

        Inputs for which `inputs` has True are the same for all rows. Those whose places `windows` has with a kernel are
        copied before, to where they begin at every repetition: behind the others lie the bases of what that takes.
        """
        given, copied = len(inputs), dict(windows)
        library, functions = self._stages[count]
        function = functions[number]
        constants = [self._tensors[each].data_ptr() for each in function["constants"]]
        embedded = [self._tensors[each].data_ptr() for each in function["calls"].get("embedded", ())]
        kernels, outputs = function["calls"]["kernels"], given + len(constants)
        ends = {place: _nbytes(shape, dtype) for _, operands in kernels for place, _, shape, dtype in operands}

        def argument(place: int, offset: int, shape: Sequence[int], dtype: str) -> Argument:
            if place == WORKSPACE:
                if not 0 <= offset <= self._workspace.nbytes - _nbytes(shape, dtype):
                    raise ArtifactError("a kernel's memory lies outside of its workspace; compile the model again")
                return Argument(None, self._workspace.ctypes.data + offset, 0, tuple(shape), dtype)
            if not EMBEDDED - len(embedded) < place < outputs + made:
                raise ArtifactError("a kernel's argument is none of its function's; compile the model again")
            if place <= EMBEDDED:
                return Argument(None, embedded[EMBEDDED - place] + offset, 0, tuple(shape), dtype)
            if given <= place < outputs:
                return Argument(None, constants[place - given] + offset, 0, tuple(shape), dtype)
            base = place if place < given else place - len(constants)
            shape = [UNBOUNDED if size == UNKNOWN else size for size in shape]
            step = 0 if place < given and (inputs[place] or place in copied) else ends[place]
            return Argument(base, offset, step, tuple(shape), dtype)

        calls = [(_function(library, kernel), [argument(*each) for each in operands]) for kernel, operands in kernels]
        copies = [self._copy(name, given + made + 5 * index, place) for index, (place, name) in enumerate(windows)]
        return Block([*copies, *calls], given + made + 5 * len(windows), self._type_of)

    def _windows(self, name: str, arrays: int) -> Block:
        """A kernel of windows: its bases are its arguments, of which so many are arrays behind the first three."""
        return Block([self._copy(name, 0, 2 + arrays, arrays)], 3 + arrays, self._type_of)

    def _copy(self, name: str, base: int, target: int, arrays: int = 3) -> Call:
        """A kernel of windows, whose arguments are behind each other from a base on, but for the last."""
        dtype = "uint8" if IM2COL_CODES in name else "float32"
        places = (*range(base + 3, base + 2 + arrays), target)
        return _function(self._shared, name), [
            Argument(base, 0, WORD, (1,), "int64"), Argument(base + 1, 0, 0, (SIZES,), "int64"),
            Argument(base + 2, 0, 0, (UNBOUNDED,), "int64"),
            *(Argument(each, 0, 0, (UNBOUNDED,), dtype) for each in places)]

    def _between(self, name: str, sizes: int, dtypes: tuple[str, ...]) -> Block:
        """A kernel of run-time sizes: it takes the array of these, then flat ones."""
        given = [Argument(0, 0, 0, (sizes,), "int64"),
                 *(Argument(1 + index, 0, 0, (UNBOUNDED,), dtype) for index, dtype in enumerate(dtypes))]
        return Block([(_function(self._shared, name), given)], len(given), self._type_of)

    def _recurrence(self, number: int, count: int, hidden: int) -> Block:
        """A recurrence for some members: its bases are sizes, inputs' share, state, cell, lengths and result."""
        library, functions = self._recurrences[count]
        *constants, peepholes = (self._tensors[each] for each in functions[number]["constants"])
        state = (count * hidden,)
        fixed = [Argument(None, each.data_ptr(), 0, tuple(each.shape), str(each.dtype)) for each in constants]
        moving = [Argument(base, 0, 0, shape, dtype) for base, (shape, dtype) in enumerate((
            ((2,), "int64"), ((UNBOUNDED,), "float32"), (state, "float32"), (state, "float32"), ((count,), "int32"),
            ((UNBOUNDED,), "float32")))]
        last = Argument(None, peepholes.data_ptr(), 0, tuple(peepholes.shape), "float32")
        call = _function(library, functions[number]["entry"]), [*fixed, *moving[:-1], last, moving[-1]]
        return Block([call], len(moving), self._type_of)


def _function(library: Any, name: str) -> Any:
    return library.get_function(name, query_imports=True)


def _nbytes(shape: Sequence[int], dtype: str) -> int:
    return math.prod(shape) * element_type(dtype).itemsize


def _words(words: Sequence[int]) -> np.ndarray:
    memory = aligned((len(words),), np.dtype(np.int64))
    memory[:] = words
    return memory
