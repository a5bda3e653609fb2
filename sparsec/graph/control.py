"""Loop and Scan as ONNX defines them, for its reference implementation.

Its own Loop puts the parts of a collected output one after the other where they are to be stacked, and its Scan knows
neither axes, directions nor sequences of no length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_loop import Loop as ReferenceLoop
from onnx.reference.ops.op_scan import Scan as ReferenceScan

UNBATCHED = 9
"""The opset from which on a Scan has no batch."""

Values = dict[str, Any]


class Loop(ReferenceLoop):
    """A body that is run while its condition holds, at most so many times."""

    op_domain = ""
    body: Any

    def _run(self, M: Any, cond: Any, *args: Any, context: Mapping[str, Any] | None = None,
             attributes: Any = None, **_given: Any) -> tuple[Any, ...]:
        counter, going, *names = self.body.input_names
        current, collected = list(args), _lists(self.body, len(names) + 1)
        most = None if M is None else int(np.reshape(M, ()))
        goes, trip = cond is None or bool(np.reshape(cond, ())), 0
        while goes and (most is None or trip < most):
            inputs = {**(context or {}), **dict(zip(names, current, strict=True)), counter: np.array(trip, np.int64),
                      going: np.array(True)}
            more, *results = _outputs(self.body, inputs, attributes)
            goes, current, trip = bool(np.reshape(more, ())), results[:len(names)], trip + 1
            for parts, result in zip(collected, results[len(names):], strict=True):
                parts.append(result)
        return (*current, *_stacked(self.body, collected, [0] * len(collected)))


class Scan(ReferenceScan):
    """A body that is run for every part of the sequences; in opset 8 for every member of a batch, too."""

    op_domain = ""
    body: Any
    num_scan_inputs: int
    scan_input_axes: Sequence[int] | None
    scan_input_directions: Sequence[int] | None
    scan_output_axes: Sequence[int] | None
    scan_output_directions: Sequence[int] | None

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        OpRun.__init__(self, onnx_node, run_params)  # the parent's refuses what this one does
        self._backward = next((list(each.ints) for each in onnx_node.attribute if each.name == "directions"), None)

    def _run(self, *given: Any, context: Mapping[str, Any] | None = None, attributes: Any = None, **_given: Any,
             ) -> tuple[Any, ...]:
        count = len(given) - self.num_scan_inputs
        if self.run_params["opsets"][""] >= UNBATCHED:
            sequences = _sequences(given[count:], self.scan_input_axes, self.scan_input_directions)
            return self._scanned(given[:count], sequences, context, attributes)
        return self._by_member(given, count, context, attributes)

    def _by_member(self, given: Sequence[Any], count: int, context: Mapping[str, Any] | None,
                   attributes: Any) -> tuple[Any, ...]:
        """Opset 8: every member of the batch by itself, which lengths in front of the states may end early."""
        lengths, longest, members = given[0], given[-1].shape[1], []
        for member in range(len(given[-1])):
            own = slice(None if lengths is None else int(lengths[member]))
            sequences = _sequences([each[member][own] for each in given[count:]], None, self._backward)
            found = self._scanned([each[member] for each in given[1:count]], sequences, context, attributes)
            members.append([*found[:count - 1], *(_padded(each, longest) for each in found[count - 1:])])
        return tuple(np.stack(each) for each in zip(*members, strict=True))

    def _scanned(self, states: Sequence[Any], sequences: Iterable[np.ndarray], context: Mapping[str, Any] | None,
                 attributes: Any) -> tuple[Any, ...]:
        count, current, names = len(states), list(states), self.body.input_names
        collected = _lists(self.body, count)
        for parts in zip(*sequences, strict=True):
            inputs = {**(context or {}), **dict(zip(names, (*current, *parts), strict=True))}
            results = _outputs(self.body, inputs, attributes)
            current = results[:count]
            for each, result in zip(collected, results[count:], strict=True):
                each.append(result)
        backwards = self.scan_output_directions or [0] * len(collected)
        ordered = [each[::-1] if backward else each for each, backward in zip(collected, backwards, strict=True)]
        return (*current, *_stacked(self.body, ordered, self.scan_output_axes or [0] * len(collected)))


def _sequences(arrays: Sequence[np.ndarray], axes: Sequence[int] | None, directions: Sequence[int] | None,
               ) -> Iterator[np.ndarray]:
    """Every sequence with its steps first, in the order in which they are taken."""
    every = zip(arrays, axes or [0] * len(arrays), directions or [0] * len(arrays), strict=True)
    for array, axis, backward in every:
        steps = np.moveaxis(array, axis, 0)
        yield steps[::-1] if backward else steps


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    """With zeros behind a sequence that is shorter than others."""
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])


def _outputs(body: Any, inputs: Values, attributes: Any) -> list[Any]:
    """The body's outputs, in order."""
    return list(body.run(None, inputs, attributes=attributes))


def _lists(body: Any, states: int) -> list[list[Any]]:
    """A list for every output behind the states."""
    return [[] for _ in body.output_names[states:]]


def _stacked(body: Any, collected: Sequence[Sequence[np.ndarray]], axes: Sequence[int]) -> list[np.ndarray]:
    """What was collected, along its axis; of nothing the body's declaration tells type and sizes."""
    values = list(body.proto_.output)[len(body.output_names) - len(collected):]
    return [np.stack(parts, axis) if parts else _none_of(value.type.tensor_type, axis)
            for parts, value, axis in zip(collected, values, axes, strict=True)]


def _none_of(kind: Any, axis: int) -> np.ndarray:
    """No parts of a declared type; sizes that it does not declare are 0."""
    shape = [dim.dim_value for dim in kind.shape.dim]
    shape.insert(axis % (len(shape) + 1), 0)
    return np.empty(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type or onnx.TensorProto.FLOAT))


OPERATORS: list[type[OpRun]] = [Loop, Scan]
"""By their class names."""
