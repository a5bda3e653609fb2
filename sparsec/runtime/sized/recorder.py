"""How the first call of some sizes is taken step by step, and what is left of it for the others; see `flow`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from sparsec.graph.sized import CONVOLUTIONS, IM2COL_CODES, LEVELS, SIZED_DOMAIN
from sparsec.machine.memory import ALIGNMENT
from sparsec.runtime.sized.arena import Arena
from sparsec.runtime.sized.attention import FLOAT, INPUTS, lines_of, spread
from sparsec.runtime.sized.held import Unread, Value
from sparsec.runtime.sized.items import Item, Unplanned, copying, moved, step_of
from sparsec.runtime.sized.kernels import Kernels
from sparsec.runtime.sized.recording import Recording
from sparsec.runtime.sized.recurrent import Recurrent
from sparsec.runtime.sized.rotary import rotary_sizes
from sparsec.runtime.sized.rows import Splitter, Tensor
from sparsec.runtime.sized.windows import COPIED, geometry, kept_geometry, kernel_of

COPY_S = 3e-6
"""What a copy of few bytes between two operations costs a call."""
LEVELS_OF = f"{SIZED_DOMAIN}::{LEVELS}"


class Recorder(Recording):
    """One call; see `Flow` for the arguments.

    Attributes:
        computes: whether numpy computes something in what other calls repeat.

    """

    def __init__(self, arena: Arena, kernels: Kernels, steps: Sequence[Mapping[str, Any]],
                 runs: Sequence[Callable[..., Any]], spent: Sequence[Sequence[str]], outputs: Sequence[str],
                 splitter: Splitter, scratch: Sequence[Mapping[str, int]]) -> None:
        super().__init__(arena, kernels, splitter)
        self._scratch, self._steps, self._runs, self._spent, self._outputs = scratch, steps, runs, spent, outputs
        self.computes = False

    def record(self, start: Mapping[str | None, Any], inputs: Mapping[str, np.ndarray]) -> dict[str | None, Any]:
        """Take all steps; returns the values that differ from call to call.

        Raises:
            Full: the arena is too small.
            Unplanned: there is nothing to repeat.

        """
        self._values = {name: Value(array) for name, array in start.items()}
        self._late.update(inputs)
        for name, array in inputs.items():
            self._values[name] = Value(array, late=True)
        natively = {"rows": self._rows, "attention": self._attention, "rotary": self._rotary,
                    "recurrence": self._recurrence, "windows": self._windows, LEVELS_OF: self._levels}
        for step, run, spent in zip(self._steps, self._runs, self._spent, strict=True):
            kind = step["op"]
            if kind in natively and (kind != "rows" or self._kernels.planned(step["number"])):
                natively[kind](step)
            else:
                self._numpy(step, run)
            for name in spent:
                self._spend(name)
        self._flush()
        return self._late

    @property
    def outputs(self) -> list[tuple[np.ndarray | None, str]]:
        """Where each output lies, or None and its name among the values."""
        found = [(self._values[name], name) for name in self._outputs]
        return [(None if value.late else np.asarray(value.array), name) for value, name in found]

    # Steps

    def _rows(self, step: Mapping[str, Any]) -> None:
        """A stage of rows: operations for the parts that they are divided into."""
        given, made = ([Tensor.of(each) for each in step[key]] for key in ("given", "made"))
        if any(self._values[name].windows is not None for name in step["inputs"]):
            self._rows_of_windows(step, given, made)
            return
        lead = self._values[step["inputs"][0]].array.shape[:step["rank"]]
        rows = math.prod(lead)
        if not rows:
            raise Unplanned
        widths = [0 if each.whole else each.dtype.itemsize * math.prod(each.shape) for each in (*given, *made)]
        apart = max(ALIGNMENT // math.gcd(ALIGNMENT, width) for width in widths)
        if not self._splitter.divides(rows, apart):
            raise Unplanned
        parts = self._splitter.parts(rows, apart)
        tight = self._splitter.parts(rows)
        padded = max(sum(parts), sum(tight))
        sources = [self._source(name, tensor, *((1, 1) if tensor.whole else (rows, padded)))
                   for name, tensor in zip(step["inputs"], given, strict=True)]
        results = [self._piece((*lead, *tensor.shape), tensor.dtype, self._splitter.spare * width)
                   for tensor, width in zip(made, widths[len(given):], strict=True)]
        for name, value in zip(step["outputs"], results, strict=True):
            self._enter(name, value)
        copies = len(tight) * sum(bool(width % ALIGNMENT) for width in widths)
        if self._splitter.takes(tight) + COPY_S * copies < self._splitter.takes(parts):
            self._in_pieces(step, tight, [each.array for each in (*sources, *results)], widths)
            return
        addresses = [each.array.ctypes.data for each in (*sources, *results)]
        first = 0
        for count, same in groupby(parts):
            repeat = len(list(same))
            block = self._kernels.stage(step["number"], count, tuple(each.whole for each in given), len(made))
            self._operation(block.address, repeat, [
                address + first * width for address, width in zip(addresses, widths, strict=True)])
            first += repeat * count

    def _rows_of_windows(self, step: Mapping[str, Any], given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """A stage of rows of which inputs are windows, which are copied for the rows of each operation."""
        values = [self._values[name] for name in step["inputs"]]
        lead = values[0].array.shape[:step["rank"]]
        rows = math.prod(lead)
        widths = [0 if each.whole else each.dtype.itemsize * math.prod(each.shape) for each in (*given, *made)]
        read = [width for value, width in zip(values, widths, strict=False) if value.windows is None]
        apart = max(ALIGNMENT // math.gcd(ALIGNMENT, width) for width in (*read, *widths[len(given):]))
        if not self._splitter.divides(rows, apart):
            raise Unplanned
        parts = self._splitter.parts(rows, apart)
        sources = [self._piece((parts[0] * width,), np.dtype(np.uint8)) if value.windows is not None
                   else self._source(name, tensor, *((1, 1) if tensor.whole else (rows, sum(parts))))
                   for name, tensor, value, width in zip(step["inputs"], given, values, widths, strict=False)]
        results = [self._piece((*lead, *tensor.shape), tensor.dtype, self._splitter.spare * width)
                   for tensor, width in zip(made, widths[len(given):], strict=True)]
        for name, value in zip(step["outputs"], results, strict=True):
            self._enter(name, value)
        own = {index: (value.windows, kept_geometry(value.windows.found)) for index, value in enumerate(values)
               if value.windows is not None}
        first = 0
        for count, same in groupby(parts):
            repeat = len(list(same))
            firsts = self._numbers(range(first, first + repeat * count, count))
            addresses = [source.array.ctypes.data + (0 if index in own else first * width) for index, (source, width) in
                         enumerate(zip((*sources, *results), widths, strict=True))]
            for unread, arrays in own.values():
                sizes = self._numbers([count, *unread.found.sizes])
                self.kept += arrays
                addresses += [each.ctypes.data for each in (firsts, sizes, arrays[0], unread.x, arrays[1])]
            block = self._kernels.stage(step["number"], count, tuple(each.whole for each in given), len(made),
                                        tuple((index, unread.kernel) for index, (unread, _) in own.items()))
            self._operation(block.address, repeat, addresses)
            first += repeat * count
        for index in own:
            root = sources[index].root
            assert root is not None
            self._arena.give(root)

    def _windows(self, step: Mapping[str, Any]) -> None:
        """Windows of images: as a whole, or for the rows that read them where nothing else does."""
        kind, (name, *more) = step["kind"], step["inputs"]
        x = self._contiguous(name)
        residual = [self._contiguous(each) for each in more[1:] if kind in CONVOLUTIONS]
        others = [self._values[each] for each in more[:1 if kind in CONVOLUTIONS else None]]
        if (x.dtype != np.float32 and kind != IM2COL_CODES) or not x.size or not all(value.fixed for value in others):
            raise Unplanned
        found = geometry(kind, step["attributes"], [x, *(value.array for value in others)])
        if not math.prod(found.shape):
            raise Unplanned
        (output,) = step["outputs"]
        if kind in COPIED and output not in self._outputs and all(
                each["op"] == "rows" and self._kernels.planned(each["number"])
                for each in self._steps if output in each["inputs"]):
            root = self._copies.get(name, self._values[name]).root
            self._enter(output, Value(np.broadcast_to(x.dtype.type(0), found.shape), root,
                                      windows=Unread(kernel_of(step), x, found)))
            return
        out = self._piece(found.shape, x.dtype, self._splitter.spare * found.shape[-1] * FLOAT)
        arrays = kept_geometry(found)
        self.kept += arrays
        self._operation(self._kernels.windows(kernel_of(step), 3 + len(residual)).address, 1, [
            each.ctypes.data for each in (self._numbers([0]), self._numbers([found.total, *found.sizes]), arrays[0], x,
                                          arrays[1], *residual, out.array)])
        self._enter(output, out)

    def _in_pieces(self, step: Mapping[str, Any], parts: Sequence[int], arrays: Sequence[np.ndarray],
                   widths: Sequence[int]) -> None:
        """The parts of a stage, of which some begin where memory is not aligned: these work on copies that are.

        Args:
            step: the stage.
            parts: rows of each.
            arrays: what it reads and gives.
            widths: bytes of a row of each, 0 of what is the same for all rows.

        """
        wholes = tuple(bool(each.get("whole", False)) for each in step["given"])
        contents = [array.reshape(-1).view(np.uint8) for array in arrays]
        rows = max(data.size // width for data, width in zip(contents, widths, strict=True) if width)
        first = 0
        for count in parts:
            end, addresses, back, roots = min(first + count, rows), list[int](), list[Item](), list[int]()
            for index, (data, width) in enumerate(zip(contents, widths, strict=True)):
                at = first * width
                if not at % ALIGNMENT:
                    addresses.append(data.ctypes.data + at)
                    continue
                piece = self._piece((count * width,), np.dtype(np.uint8))
                assert piece.root is not None
                roots.append(piece.root)
                addresses.append(piece.array.ctypes.data)
                own, valid = data[at:end * width], (end - first) * width
                if index < len(wholes):
                    self._do(moved(own, piece.array[:valid], piece.array[valid:]))
                else:
                    back.append(moved(piece.array[:valid], own, own[:0]))
            block = self._kernels.stage(step["number"], count, wholes, len(arrays) - len(wholes))
            self._operation(block.address, 1, addresses)
            for item in back:
                self._do(item)
            for root in roots:
                self._arena.give(root)
            first += count

    def _attention(self, step: Mapping[str, Any]) -> None:
        """A call of the kernel of attention; see `runtime.sized.attention`."""
        names = [*step["inputs"], None, None][:INPUTS]
        mask_name, levels = names[3], [] if names[4] is None else [self._floats(names[4])]
        q, k, v = (self._floats(name) for name in names[:3])
        about = self._scratch[step["kernel"]]
        (batch, heads, tokens, _), keys = q.shape, k.shape[2]
        if not (q.size and keys):
            raise Unplanned
        out = self._piece((batch, tokens, heads, about["width"]), np.dtype(np.float32),
                          self._splitter.spare * heads * about["width"] * FLOAT)
        y = out.array.transpose(0, 2, 1, 3)
        mask = None if not mask_name else spread(self._floats(mask_name), (batch, heads, tokens, keys))
        work = self._piece((-(-keys // about["pair"]) * about["pair"] * about["threads"]
                            * (about["depth"] + about["rows"]),), np.dtype(np.float32))
        self._between(f"attention{step['kernel']}", lines_of(q, k, v, mask, y),
                      [q, k, v, q if mask is None else mask, *levels, work.array, out.array])
        assert work.root is not None
        self._arena.give(work.root)
        self._enter(step["outputs"][0], Value(y, out.root))

    def _rotary(self, step: Mapping[str, Any]) -> None:
        """A call of the kernel of rotations."""
        x, cos, sin = (self._floats(name) for name in step["inputs"])
        batch, heads, tokens, depth = x.shape
        if not x.size:
            raise Unplanned
        spare = self._splitter.spare * heads * depth * FLOAT
        out = self._piece((batch, tokens, heads, depth), np.dtype(np.float32), spare)
        y = out.array.transpose(0, 2, 1, 3)
        self._between(f"rotary{step['kernel']}", rotary_sizes(x, cos, sin, out.array), [x, cos, sin, out.array])
        self._enter(step["outputs"][0], Value(y, out.root))

    def _levels(self, step: Mapping[str, Any]) -> None:
        """Scale and zero point of dynamic quantisation."""
        (name,) = step["inputs"]
        array = self._values[name].array
        order = sorted(range(np.ndim(array)), key=lambda axis: -array.strides[axis])
        turned = array.transpose(order)
        dense = self._values[name].root is not None and turned.flags.c_contiguous
        x = turned if dense else self._contiguous(name)
        if not x.size or x.dtype != np.float32:
            raise Unplanned
        scale, zero = self._piece((1,), np.dtype(np.float32)), self._piece((1,), np.dtype(np.uint8))
        self._between("levels", [x.size], [x, scale.array, zero.array])
        for output, value in zip(step["outputs"], (scale, zero), strict=True):
            self._enter(output, Value(value.array.reshape(()), value.root))

    def _recurrence(self, step: Mapping[str, Any]) -> None:
        """A recurrence: an operation for so many members of the batch as there are kernels for."""
        x, h, c, lengths = (None if not name else self._contiguous(name) for name in step["inputs"])
        assert x is not None
        steps, batch, _ = x.shape
        if not (steps and batch):
            raise Unplanned
        hidden = step["hidden"]
        h, c, lengths = (self._zeros(shape, dtype) if each is None else each for each, shape, dtype in (
            (h, (batch, hidden), np.float32), (c, (batch, hidden), np.float32), (lengths, (batch,), np.int32)))
        out = self._piece((steps + 2, batch, hidden), np.dtype(np.float32), self._splitter.spare * hidden * FLOAT)
        sizes, operations = Recurrent(self._kernels, step["number"], hidden).operations((x, h, c, lengths, out.array))
        self.kept.append(sizes)
        for operation in operations:
            self._operation(*operation)
        results = out.array[:steps], out.array[steps], out.array[steps + 1]
        for name, array in zip(step["outputs"], results, strict=True):
            self._enter(name, Value(array, out.root))

    def _between(self, name: str, sizes: Sequence[int], arrays: Sequence[np.ndarray]) -> None:
        told = self._numbers(sizes)
        block = self._kernels.between(name, len(sizes), tuple(array.dtype.name for array in arrays))
        self._operation(block.address, 1, [told.ctypes.data, *(array.ctypes.data for array in arrays)])

    def _numpy(self, step: Mapping[str, Any], run: Callable[..., Any]) -> None:
        """A step on numpy: done for good where it gives a view of the arena, or follows from sizes."""
        names = step["inputs"]
        given = [self._values[name] for name in names]
        if any(value.root is not None for value in given):
            self._flush()
        results = run([value.array for value in given])
        outputs = step["outputs"]
        later = [None if value.late else value.array for value in given]
        if all(value.fixed for value in given):
            for name, array in zip(outputs, results):  # noqa: B905 - some are absent
                self._enter(name, Value(array))
            return
        root = given[0].root
        if root is not None and all(value.fixed for value in given[1:]) and all(
                isinstance(each, np.ndarray) and np.may_share_memory(each, self._arena.memory) for each in results):
            for name, array in zip(outputs, results):  # noqa: B905 - as above
                self._enter(name, Value(array, root))
            return
        if any(np.may_share_memory(each, self._arena.memory) for each in results):
            run, results = copying(run), [np.array(each) for each in results]
        self.computes = True
        self.items.append(step_of(run, tuple(zip(names, later, strict=True)), tuple(outputs)))
        for name, array in zip(outputs, results):  # noqa: B905 - as above
            self._late[name] = array
            self._enter(name, Value(array, late=True))
