"""Latency and bytes of every format, layer by layer: each kernel timed where it would run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import timer
from sparsec.compiler.prepare import prepare
from sparsec.cost.calibration import Calibration
from sparsec.cost.plan import Candidate, Choice, Measure, best_by_format, choose
from sparsec.cost.tuning import TuningLog
from sparsec.errors import UsageError
from sparsec.formats import FORMATS
from sparsec.formats.storage import as_matrix
from sparsec.graph import reader
from sparsec.graph.nodes import weight_array
from sparsec.target import Target


@dataclass(frozen=True)
class Timed:
    """A kernel with the bytes of its stored weight, and its predicted and its measured microseconds."""

    format: str
    kernel: str
    detail: str
    bytes: int
    predicted_us: float
    measured_us: float


@dataclass(frozen=True)
class Form(Timed):
    """A format that accepts a weight, with the kernel that runs it.

    Attributes:
        runs_as: the format of the kernel: another one's, the chosen kernel's, where this one has none.
        stored_bytes: of the weight in a file; None where only kernels have the format.

    """

    runs_as: str
    stored_bytes: int | None


@dataclass(frozen=True)
class Layer:
    """A layer: its node, its weight, the kernel that the cost model chose, the fastest measured one, and all formats.

    `sparsity` is that of a sweep's weights, None of a model's own.
    """

    layer: str
    operator: str
    shape: tuple[int, ...]
    weights: int
    nonzeros: int
    chosen: Timed
    fastest: Timed
    formats: tuple[Form, ...]
    sparsity: float | None = None


@dataclass(frozen=True)
class Regret:
    """How far choices are from the fastest measured kernels, as ratios of times, and predictions from measured times.

    Attributes:
        layers: their number.
        mean, worst: of a choice's time over the fastest kernel's.
        never_slower: the largest measured time of a choice over that of the best dense kernel.
        prediction_error: the median share that predictions err by.

    """

    layers: int
    mean: float
    worst: float
    never_slower: float
    prediction_error: float


SWEPT = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""The sparsities of a sweep."""


def time_model(model: reader.Source, target: Target, *, threads: int = 1,
               shapes: Mapping[str, Sequence[int]] | None = None, dims: Mapping[str, int] | None = None,
               calibration: Calibration | None = None, trials: int = 1,
               progress: Callable[[float], None] = lambda _share: None) -> list[Layer]:
    """Every layer's formats, measured.

    Args:
        model: the network.
        target: this machine.
        threads: threads of a kernel.
        shapes: full shapes of inputs with symbolic dimensions.
        dims: sizes of such dimensions by name.
        calibration: rates in place of the backend's.
        trials: how many of the best predicted options are timed beside the best of every format.
        progress: told of the share of the work done.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        UsageError: the target's kernels cannot be timed here, or one of them.

    """
    options = CompileOptions(target, threads=threads, shapes=shapes, dims=dims)
    if options.backend.measurer(target) is None:
        raise UsageError(f"the formats of target '{target.name}' cannot be timed here; choose a cpu target; on a GPU "
                         "bench/cuda_bench.py times those of linear layers")
    prepared = prepare(model, options, calibration=calibration)
    job = replace(prepared.job, log=TuningLog(None, float("inf")))  # equal layers are timed once
    rows = []
    for index, node in enumerate(prepared.graph.graph):
        progress(index / len(prepared.graph.graph))
        if offers := prepared.backend.options(node, job):
            timed = timer(node, job)
            assert timed is not None  # there is a measurer
            choice = choose(node.name or node.op_type, offers, threads=threads, machine=job.calibration.machine)
            rows.append(_layer(node, choice, trials, timed))
    return rows


def _layer(node: ir.Node, choice: Choice, trials: int, timed: Measure) -> Layer:
    weight = weight_array(node)
    kernels = {each.option.name: _kernel(each, timed) for each in best_by_format(choice)}
    others = [_kernel(each, timed) for each in (choice.winner, *choice.losers)[:trials]]
    chosen = kernels[choice.winner.option.name]
    stored = {name: form.encode(weight).nbytes for name, form in FORMATS.items()
              if form.reject(as_matrix(weight)) is None}
    forms = [Form(**{**vars(kernels.get(name, chosen)), "format": name},
                  runs_as=name if name in kernels else chosen.format, stored_bytes=stored.get(name))
             for name in dict.fromkeys((*kernels, *stored))]
    return Layer(choice.layer, node.op_type, weight.shape, weight.size, int(np.count_nonzero(weight)), chosen,
                 min((*kernels.values(), *others), key=lambda each: each.measured_us), tuple(forms))


def _kernel(candidate: Candidate, timed: Measure) -> Timed:
    option = candidate.option
    seconds = timed(option)
    if seconds is None:  # though the budget is endless
        raise UsageError(f"kernel '{option.kernel}' cannot be timed here; choose a target without its library")
    return Timed(option.name, option.kernel, option.detail, option.nbytes, candidate.predicted_s * 1e6, seconds * 1e6)


def linear_layer(outputs: int, inputs: int, rows: int, sparsity: float, seed: int = 0) -> onnx.ModelProto:
    """A model of one linear layer, (rows, inputs) to (rows, outputs), with zeros at random places."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((inputs, outputs), np.float32) * (rng.random((inputs, outputs)) >= sparsity)
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (rows, width))
            for name, width in (("x", inputs), ("y", outputs)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], f"linear-{100 * sparsity:g}")], "linear",
                              [x], [y], [numpy_helper.from_array(weight.astype(np.float32), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sweep(sizes: tuple[int, int, int], target: Target, *, threads: int = 1,
          progress: Callable[[float], None] = lambda _share: None) -> list[Layer]:
    """The formats of a linear layer of M outputs, K inputs and N rows at every one of `SWEPT`: `time_model`'s rows."""
    outputs, inputs, rows = sizes
    points = []
    for index, sparsity in enumerate(SWEPT):
        progress(index / len(SWEPT))
        layers = time_model(linear_layer(outputs, inputs, rows, sparsity), target, threads=threads)
        points += [replace(layer, sparsity=sparsity, layer=f"{100 * sparsity:g} % zeros") for layer in layers]
    return points


def regret(layers: Sequence[Layer]) -> Regret:
    """How far the model's choices are from the fastest measured kernels, and its predictions from what was measured."""
    ratios = [each.chosen.measured_us / each.fastest.measured_us for each in layers]
    dense = [each.chosen.measured_us / form.measured_us for each in layers for form in each.formats
             if form.format == "dense" == form.runs_as]
    errors = [abs(form.predicted_us / form.measured_us - 1) for each in layers for form in each.formats
              if form.format == form.runs_as]
    return Regret(len(ratios), float(np.mean(ratios)), float(np.max(ratios)), float(np.max(dense)),
                  float(np.median(errors)))
