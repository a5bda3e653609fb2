"""What ONNX's reference takes for the operators that it runs in an artifact for run-time sizes, timed here."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.plan import element_name
from sparsec.compiler.sized.staged import Staged
from sparsec.errors import InputError
from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name, read_by
from sparsec.machine.memory import element_type
from sparsec.runtime.stages import Run, interpret

RUNS = 3
"""Runs of every operator, of which the shortest counts."""


def times_of(found: Staged, sizes: Mapping[str, int]) -> dict[str, float]:
    """By node, the microseconds of a run on ones of the sizes given, 1 for others; without those that refuse such."""
    steps = [step for step in found.plan.fields["steps"] if step["op"] == "onnx"]
    times = {}
    for node, step in zip(found.plan.interpreted, steps, strict=True):
        feeds = {value.name or "": _array(value, found.symbols, sizes) for value in read_by(node)}
        run = interpret(found.plan.arrays[step["model"]].tobytes())
        try:
            times[node_name(node)] = 1e6 * min(_seconds(run, feeds) for _ in range(RUNS))
        except InputError:  # ones are no boxes, indices or conditions that it takes
            continue
    return times


def _seconds(run: Run, feeds: Mapping[str, np.ndarray]) -> float:
    begin = time.perf_counter()
    run(feeds)
    return time.perf_counter() - begin


def _array(value: ir.Value, symbols: Symbols, sizes: Mapping[str, int]) -> np.ndarray:
    """What an operator reads: a constant, numbers that follow from sizes, or ones."""
    known = constant(value)
    if known is not None:
        return known
    shape = tuple(_number(size, sizes) for size in symbols.shapes.get(value, ()))
    data, dtype = symbols.data.get(value), element_type(element_name(value))
    if data is None:
        return np.ones(shape, dtype)
    return np.array([_number(size, sizes) for size in data], dtype).reshape(shape)


def _number(size: Size, sizes: Mapping[str, int]) -> int:
    return size.value({name: sizes.get(name, 1) for name in size.symbols})
