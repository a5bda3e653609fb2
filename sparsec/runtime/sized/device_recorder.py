"""How the first call of some sizes is taken on a device, and what is left of it for the others; see `device`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparsec.backends.program import WORKSPACE
from sparsec.machine.memory import Launch, element_type
from sparsec.runtime.sized.device_attention import Blocks
from sparsec.runtime.sized.device_computed import Computing
from sparsec.runtime.sized.device_kernels import CONSTANT
from sparsec.runtime.sized.device_recording import FLOAT, Brought, plain
from sparsec.runtime.sized.held import Value
from sparsec.runtime.sized.items import step_of
from sparsec.runtime.sized.rows import Tensor
from sparsec.runtime.sized.viewing import SHAPE, looks

CHUNK = 16
"""Bytes at a multiple of which what a kernel of attention copies begins."""


class Recorder(Computing):
    """One call; see `device.DeviceRunner`.

    Args:
        plan, lane, arena, block, pinned: as of any recording.

    Attributes:
        tokens: what is appended to caches.
        natively: by operator the method that takes its steps on the device.

    """

    tokens = 0
    natively: ClassVar[dict[str, str]] = {"rows": "_rows", "attention": "_attention", "rotary": "_rotary",
                                          **Computing.natively}

    def record(self, start: Mapping[str | None, Any], late: dict[str | None, Any]) -> None:
        """Take all steps; `late` has the inputs, and gets the values that differ from call to call.

        Raises:
            Full, PinnedFull: there is too little memory.

        """
        self._late = late
        self._values = {name: Value(array, late=name in late) for name, array in start.items()}
        self._prepare()
        for step, run, spent in zip(self._plan.steps, self._plan.runs, self._plan.spent, strict=True):
            if self._is_taken(step["when"]):
                self._take(step, run)
            for name in spent:
                self._spend(name)
        for each in self._plan.outputs:
            if self._values[each].root is not None:
                self._leave(each)
        self._end()

    def output(self, name: str) -> tuple[Brought | np.ndarray | None, str]:
        """Where an output is: on the device until it was brought, the same in every call, or None among the values."""
        value = self._values[name]
        return (self._brought.get(name) or (None if value.late else np.asarray(value.array))), name

    def _prepare(self) -> None:
        """Do what comes before all steps."""

    def _take(self, step: Mapping[str, Any], run: Callable[..., Any] | None) -> None:
        """Take a step."""
        if step["op"] in self.natively:
            getattr(self, self.natively[step["op"]])(step)
        elif run is not None and step["op"] == SHAPE and self._values[step["inputs"][0]].root is not None:
            self._enter(step["outputs"][0], Value(*run([self._values[step["inputs"][0]].array])))
        elif run is not None and not (self._is_there(step) and self._view(step, run)) and not self._joined(
                step) and not self._is_computed(step):
            self._on_processor(step, run)

    # Steps

    def _is_there(self, step: Mapping[str, Any]) -> bool:
        """Whether a step looks at a value of the device, with all else known."""
        if not step["inputs"]:
            return False
        first, *rest = (self._values[name] for name in step["inputs"])
        known = first.root is not None and all(each.fixed for each in rest)
        return known and looks(step["op"], [each.array for each in rest])

    def _view(self, step: Mapping[str, Any], run: Callable[..., Any]) -> bool:
        """Enter a step's results as views of the device's memory, of a copy of its input if need be."""
        name, *rest = step["inputs"]
        value, others = self._values[name], [self._values[each].array for each in rest]
        for copied in (False, True):
            source = self._contiguous(value) if copied else value
            results = run([source.array, *others])
            if all(np.may_share_memory(each, self._arena.memory) for each in results):
                for output, array in zip(step["outputs"], results):  # noqa: B905 - some are absent
                    self._enter(output, Value(array, source.root))
                return True
            if copied:
                self._forget(source)
        return False

    def _on_processor(self, step: Mapping[str, Any], run: Callable[..., Any]) -> None:
        """A step on numpy: done for good where it follows from sizes, else again in every call."""
        given = [self._values[name] for name in step["inputs"]]
        for name, value in zip(step["inputs"], given, strict=True):
            if value.root is not None:
                self._bring(name)
        for name, value in zip(step["inputs"], given, strict=True):
            if value.root is not None:
                self._tell(name)
        names = tuple(zip(step["inputs"], [value.array if value.fixed else None for value in given], strict=True))
        results = run([self._late[name] if array is None and name in self._late else array for name, array in names])
        fixed = all(value.fixed for value in given)
        if not fixed:
            self.items.append(step_of(run, names, tuple(step["outputs"])))
        for name, array in zip(step["outputs"], results):  # noqa: B905 - some are absent
            if not fixed:
                self._late[name] = array
            self._enter(name, Value(array, late=not fixed))

    def _rows(self, step: Mapping[str, Any]) -> None:
        """A stage of rows: its kernels for the parts that they are divided into."""
        given, made = ([Tensor.of(each) for each in step[key]] for key in ("given", "made"))
        lead = np.shape(self._values[step["inputs"][0]].array)[:step["rank"]]
        rows = math.prod(lead)
        if not rows:
            for name, tensor in zip(step["outputs"], made, strict=True):
                self._enter(name, Value(np.zeros((*lead, *tensor.shape), plain(tensor.dtype))))
            return
        parts = self._plan.splitter.parts(rows)
        widths = [0 if each.whole else each.dtype.itemsize * math.prod(each.shape) for each in (*given, *made)]
        padded = [(sum(parts) - rows) * width for width in widths]
        sources = [self._source(name, tensor, rows, more)
                   for name, tensor, more in zip(step["inputs"], given, padded, strict=False)]
        results = [self._piece((*lead, *tensor.shape), tensor.dtype, more)
                   for tensor, more in zip(made, padded[len(given):], strict=True)]
        for name, value in zip(step["outputs"], results, strict=True):
            self._enter(name, value)
        bases, first = [self._offset(each.array) for each in (*sources, *results)], 0
        for count in parts:
            self._part(step["number"], count, given, made,
                       [base + first * width for base, width in zip(bases, widths, strict=True)])
            first += count

    def _part(self, number: int, count: int, given: Sequence[Tensor], made: Sequence[Tensor],
              bases: Sequence[int]) -> None:
        """A stage for some rows, whose inputs and outputs begin so many bytes into the block."""
        kernels = self._plan.kernels
        nbytes = kernels.workspace(number, count)
        workspace = self._arena.take(nbytes) if nbytes else 0
        for function, operands in kernels.stage(number, count, given, made):
            arguments = []
            for (place, offset), shape, dtype in operands:
                if place <= CONSTANT:
                    memory, begin = kernels.tensors[CONSTANT - place], 0
                else:
                    memory, begin = self._block, workspace if place == WORKSPACE else bases[place]
                arguments.append(self._lane.view(memory, begin + offset, shape, dtype))
            self._work.append(Launch(function, arguments))
        if nbytes:
            self._arena.give(workspace)

    def _attention(self, step: Mapping[str, Any]) -> None:
        """A call of the kernel of attention."""
        *names, mask_name = [*step["inputs"], None][:4]
        about = self._plan.kernels.attention[step["kernel"]]
        half = element_type(self._plan.kernels.half)
        q, k, v = (self._projection(name, half) for name in names)
        (batch, heads, queries, width), groups, keys = q.shape, k.shape[1], k.shape[2]
        if not (q.size and keys):  # 0 / 0 is no number
            self._enter(step["outputs"][0], Value(np.full(q.shape, np.nan, FLOAT)))
            return
        padded = sum(self._plan.splitter.parts(batch * queries)) - batch * queries
        out = self._piece((batch, queries, heads, width), q.dtype, padded * heads * width * q.itemsize)
        blocks = Blocks.of(about, (batch, heads, queries, keys), width, groups)
        partial = self._piece((blocks.partial(blocks.shares),), FLOAT)
        arrays, numbers = [q, k, v, partial.array], [heads, heads // groups, queries, self._keys(keys), batch]
        numbers += [blocks.shares, *(stride // array.itemsize for array in (q, k, v) for stride in array.strides[:3])]
        if mask_name:
            mask = self._mask(mask_name, (batch, heads, queries, keys))
            lists, told = self._listed(mask_name, mask, blocks)
            arrays += [mask, lists]
            numbers += [*(stride // mask.itemsize for stride in mask.strides), *told]
        masked = "_masked" * bool(mask_name)
        self._attend(f"attention{step['kernel']}_{blocks.queries}{masked}", arrays, numbers, out.array)
        if blocks.shares > 1:
            self._between(f"combine{step['kernel']}{masked}", [partial.array, out.array], [blocks.rows, blocks.shares])
        self._forget(partial)
        self._enter(step["outputs"][0], Value(out.array.transpose(0, 2, 1, 3), out.root))

    def _attend(self, name: str, arrays: Sequence[np.ndarray], numbers: Sequence[int], out: np.ndarray) -> None:
        """The kernel of attention."""
        self._between(name, [*arrays, out], numbers)

    def _rotary(self, step: Mapping[str, Any]) -> None:
        """A call of the kernel of rotations."""
        name, *tables = step["inputs"]
        half = element_type(self._plan.kernels.half)
        value = self._there(name)
        if value.array.dtype != half or value.array.strides[-1] != half.itemsize or min(value.array.strides) < 0:
            value = self._kept_copy(name, value, half)
        x = value.array
        batch, heads, tokens, depth = x.shape
        if not x.size:
            self._enter(step["outputs"][0], Value(np.zeros(x.shape, FLOAT)))
            return
        arrays, numbers = [x], [batch, heads, tokens, *(stride // x.itemsize for stride in x.strides[:3])]
        for each in tables:
            table = self._floats(each)
            several = table.ndim > 3 and table.shape[0] > 1
            numbers += [table.strides[0] // FLOAT.itemsize if several else 0, table.strides[-2] // FLOAT.itemsize]
            arrays.append(table)
        padded = sum(self._plan.splitter.parts(batch * tokens)) - batch * tokens
        out = self._piece((batch, tokens, heads, depth), half, padded * heads * depth * half.itemsize)
        self._between(f"rotary{step['kernel']}", [*arrays, out.array], numbers)
        self._enter(step["outputs"][0], Value(out.array.transpose(0, 2, 1, 3), out.root))

    def _floats(self, name: str) -> np.ndarray:
        """A value as float32, whose last dimension is contiguous."""
        value = self._there(name)
        near = value.array.strides[-1:] == (FLOAT.itemsize,) and min(value.array.strides) >= 0
        if value.array.dtype != FLOAT or not near:
            value = self._kept_copy(name, value, FLOAT)
        return np.asarray(value.array)

    def _projection(self, name: str, half: np.dtype[Any]) -> np.ndarray:
        """Queries, keys or values (batch, heads, tokens, width) as the kernel takes them."""
        value = self._there(name)
        array = value.array
        near = array.strides[-1] == array.itemsize or array.shape[-1] == 1
        aligned = not any(stride % CHUNK or stride < 0 for stride in array.strides[:3])
        if array.dtype != half or not near or not aligned or self._offset(array) % CHUNK:
            value = self._kept_copy(name, value, half)
        return np.asarray(value.array)

    def _mask(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A mask, spread over the scores; what is the same for all has a stride of 0."""
        value = self._there(name)
        if value.array.dtype != FLOAT or min(value.array.strides, default=0) < 0:
            value = self._kept_copy(name, value, FLOAT)
        return np.broadcast_to(value.array, shape)
