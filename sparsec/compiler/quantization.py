"""From a float model to a quantised one by onnxruntime's quantiser: static, uint8 activations, int8 weights by output.

Layers whose own error is largest stay float until the outputs err by no more than a budget. Zeros of weights stay
zeros, because weights are quantised without a zero point.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from sparsec.errors import ModelError, UsageError
from sparsec.graph import ort, reader
from sparsec.graph.compare import Feeds, relative_error, split_samples
from sparsec.graph.nodes import node_name, operator_of
from sparsec.graph.proto import read_proto
from sparsec.graph.samples import check_samples, declared
from sparsec.graph.shapes import static_shape
from sparsec.passes.quantized import first_on_codes

LAYERS = ("Conv", "Gemm", "MatMul")
MOST_SAMPLES = 256
JUDGED = 8
"""The samples that errors are measured on."""
SMALLEST = 1e-12
HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
BUDGET_SPENT = "outputs err by more than --max-error allows"
"""Why layers stay in float that the budget does not allow in 8 bits."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer of a quantised model.

    Attributes:
        layer, operator: the node's name and operator.
        error: of its outputs where it alone were quantised, relative to their root mean square.
        quantized: whether it is; False where it was left in float.
        weights, nonzeros, kept: of its constant weight: elements, those that are not zero, and those that still are
            not; all 0 where both operands are computed.
        reason: why it is in float, empty where it is not.

    """

    layer: str
    operator: str
    error: float
    quantized: bool
    weights: int
    nonzeros: int
    kept: int
    reason: str = ""


@dataclass(frozen=True)
class Quantization:
    """A quantised model: the layers in order, and by output the error relative to its largest magnitude."""

    model: onnx.ModelProto
    layers: tuple[QuantizedLayer, ...]
    errors: Mapping[str, float]

    @property
    def error(self) -> float:
        """The largest error of an output."""
        return max(self.errors.values(), default=0.0)


def quantize(model: Path, inputs: Feeds, budget: float, shapes: Mapping[str, Sequence[int]]) -> Quantization:
    """Quantise a float model, calibrated on real inputs.

    Args:
        model: the file.
        inputs: by name, arrays with n times the rows that the model takes, as n samples; every row is one where the
            number of rows is a symbol.
        budget: the largest error of an output, relative to its largest magnitude.
        shapes: of inputs with symbolic dimensions, where they are not those of the samples.

    Raises:
        ModelError: the model has no layer to quantise, is quantised already, or onnxruntime cannot quantise it.
        UsageError: the inputs are not the model's, or hold NaN or an infinity that no softmax takes; or the budget
            is out of reach.

    """
    graph = reader.load(model, shapes=shapes, symbolic=True)
    _check_floats(model, graph)
    check_samples(declared(graph), inputs)
    shapes = {**_shapes_of(model, inputs), **shapes}
    samples = split_samples(reader.load(model, shapes=shapes), inputs)[:MOST_SAMPLES]
    _check_inputs(model, samples[0], shapes)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        prepared = _prepared(model, Path(directory))
        floats = onnx.load(prepared)
        if not (names := [node.name for node in floats.graph.node if node.op_type in LAYERS]):
            raise ModelError(f"{model}: has no {', '.join(LAYERS)} to quantise")
        outputs = [value.name for value in floats.graph.output]
        expected = [ort.run(ort.session(prepared), outputs, sample, "samples") for sample in samples[:JUDGED]]
        excluded: list[str] = []
        beside: list[str] | None = None
        own: dict[str, float] = {}
        masked = _infinite(floats, samples)
        step = 1
        while True:
            around = _beside(floats.graph, excluded) if beside is None else beside
            quantized = _quantized(prepared, Path(directory), samples, [*masked, *excluded, *around])
            errors = _errors(quantized, samples[:JUDGED], expected)
            own = own or _own_errors(floats, quantized, samples[:JUDGED])
            if max(errors.values(), default=0.0) <= budget:
                return Quantization(quantized, tuple(_layers(floats, quantized, own, excluded)), errors)
            if len(excluded) == 1 and beside is None:  # no single layer hurts, so that what lies between them may
                excluded, step, beside = [], 1, [node.name for node in floats.graph.node if node.op_type not in LAYERS]
                continue
            rest = sorted(set(names) - set(excluded), key=lambda name: own.get(name, 0.0), reverse=True)
            if not rest:
                raise UsageError(f"{model}: outputs err by {max(errors.values()):.1e} even with every layer in float; "
                                 "give a larger --max-error")
            excluded += rest[:step]
            step *= 2


def _shapes_of(model: Path, inputs: Feeds) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs with symbolic dimensions, as their arrays have them, a row at a time."""
    shapes = {}
    for value in reader.load(model, symbolic=True).graph.inputs:
        dims, array = list(value.shape or ()), inputs.get(value.name or "")
        if array is not None and array.ndim == len(dims) and not all(isinstance(dim, int) for dim in dims):
            sizes = (1, *array.shape[1:])
            shapes[value.name or ""] = tuple(dim if isinstance(dim, int) else size
                                             for dim, size in zip(dims, sizes, strict=True))
    return shapes


def _check_floats(model: Path, graph: ir.Model) -> None:
    """Raises ModelError for a file that is quantised, be it in part: its float layers have lost their own ranges."""
    if (node := first_on_codes(graph)) is not None:
        raise ModelError(f"{model}: quantised already, by node '{node_name(node)}' ({operator_of(node)}) and others; "
                         "quantise the float model that it was made of, or compile it as it is")


def _beside(graph: onnx.GraphProto, excluded: Sequence[str]) -> list[str]:
    """The other nodes that stay in float: what is made of float layers alone, or of none and for such alone."""
    made: dict[str, set[str]] = {}
    for node in graph.node:
        found = {node.name} if node.op_type in LAYERS else set().union(*(made.get(each, set()) for each in node.input))
        made.update(dict.fromkeys(node.output, found))
    read: dict[str, set[str]] = {}
    for node in reversed(graph.node):
        found = {node.name} if node.op_type in LAYERS else set().union(*(read.get(each, set()) for each in node.output))
        for each in node.input:
            read[each] = read.get(each, set()) | found
    floats = set(excluded)
    return [node.name for node in graph.node if floats and node.op_type not in LAYERS and (
        made[node.output[0]] or set().union(*(read.get(each, set()) for each in node.output))) <= floats]


def _infinite(floats: onnx.ModelProto, samples: Sequence[Feeds]) -> list[str]:
    """The nodes that read or make an infinity, as a mask of attention holds it, which has no code."""
    inputs = [name for name in samples[0] if any(np.isinf(sample[name]).any() for sample in samples)]
    if not inputs:
        return []
    made = [name for node in floats.graph.node for name in node.output if name]
    infinite = {*inputs, *(name for sample in _values(floats, made, samples[:JUDGED])
                           for name in made if np.isinf(sample[name]).any())}
    return [node.name for node in floats.graph.node if infinite.intersection((*node.input, *node.output))]


def _check_inputs(model: Path, sample: Feeds, shapes: Mapping[str, Sequence[int]]) -> None:
    for value in reader.load(model, shapes=shapes).graph.inputs:
        shape, name = static_shape(value), value.name or ""
        if name not in sample or sample[name].shape != shape:
            given = sample[name].shape if name in sample else f"{', '.join(map(repr, sample)) or 'nothing'} only"
            raise UsageError(f"{model}: input '{name}' takes {shape}; the samples hold {given}")


def _prepared(model: Path, directory: Path) -> Path:
    """The model as the quantiser wants it: shapes inferred, BatchNorms folded, float32 weights, every node named."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole, path = directory / "whole.onnx", directory / "prepared.onnx"
    try:
        onnx.save(read_proto(model), whole)  # the quantiser would link to external data, which ONNX refuses
        quant_pre_process(str(whole), str(path), skip_symbolic_shape=True)
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"{model}: onnxruntime cannot prepare it: {' '.join(str(error).split())}") from error
    proto = onnx.load(path)
    _widen(proto.graph)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    onnx.save(proto, path)
    return path


def _widen(graph: onnx.GraphProto) -> None:
    """Compute the casts of constants of 16 bits to float32, which the quantiser would take for activations."""
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in HALVES}
    for node in list(graph.node):
        if node.op_type == "Cast" and node.input[0] in halves and node.attribute[0].i == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for name, tensor in halves.items():
        if name not in read:
            graph.initializer.remove(tensor)


class _Reader:
    """The samples as the quantiser reads them."""

    def __init__(self, samples: Sequence[Feeds]) -> None:
        self._rest = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample, None after the last."""
        sample = next(self._rest, None)
        return None if sample is None else dict(sample)


def _quantized(prepared: Path, directory: Path, samples: Sequence[Feeds], excluded: Sequence[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    path = directory / "quantised.onnx"
    CalibrationDataReader.register(_Reader)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises to prepare what has been prepared
    try:
        with np.errstate(invalid="ignore"):  # ranges of tensors with infinities, which stay in float
            quantize_static(str(prepared), str(path), _Reader(samples), quant_format=QuantFormat.QDQ, per_channel=True,
                            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                            nodes_to_exclude=list(excluded), extra_options={"WeightSymmetric": True})
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"onnxruntime cannot quantise the model: {' '.join(str(error).split())}") from error
    finally:
        logging.getLogger().setLevel(level)
    return onnx.load(path)


def _errors(model: onnx.ModelProto, samples: Sequence[Feeds], expected: Sequence[list[Any]]) -> dict[str, float]:
    """By output the largest error on the samples."""
    session, names = ort.session(model), [value.name for value in model.graph.output]
    errors = dict.fromkeys(names, 0.0)
    for sample, floats in zip(samples, expected, strict=True):
        for name, actual, float_ in zip(names, session.run(None, dict(sample)), floats, strict=True):
            errors[name] = max(errors[name], relative_error(np.asarray(actual), np.asarray(float_)))
    return errors


def _own_errors(floats: onnx.ModelProto, quantized: onnx.ModelProto, samples: Sequence[Feeds]) -> dict[str, float]:
    """By layer the error of its outputs, were all of its inputs exact but for being rounded to codes."""
    computed = {name for node in floats.graph.node for name in node.output} | {v.name for v in floats.graph.input}
    layers = [node for node in floats.graph.node if node.op_type in LAYERS]
    wanted = sorted({name for node in layers for name in (*node.input, node.output[0]) if name in computed})
    values = _values(floats, wanted, samples)
    originals = {tensor.name: tensor for tensor in floats.graph.initializer}
    codes = _codes_read(quantized)
    errors: dict[str, float] = {}
    for node in layers:
        squares = np.zeros(2)
        for sample in values:
            given = [sample[name] if name in sample else numpy_helper.to_array(originals[name])
                     for name in node.input if name in sample or name in originals]
            inputs = [array if each is None else each.rounded(array)
                      for array, each in zip(given, codes[node.name], strict=False)]
            exact = sample[node.output[0]].astype(np.float64)
            squares += (np.square(_run(node, [*inputs, *given[len(inputs):]], floats) - exact).sum(),
                        np.square(exact).sum())
        errors[node.name] = float(np.sqrt(squares[0] / max(squares[1], SMALLEST)))
    return errors


@dataclass(frozen=True)
class _Codes:
    """How a tensor is held in codes: `scale` and `zero` are numbers, or one for every element along `axis`."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int

    def rounded(self, array: np.ndarray) -> np.ndarray:
        """The array as its codes hold it."""
        shape = [-1 if index == self.axis % max(array.ndim, 1) and self.scale.ndim else 1
                 for index in range(array.ndim)]
        scale, zero, info = self.scale.reshape(shape), self.zero.reshape(shape), np.iinfo(self.zero.dtype)
        codes = np.clip(np.rint(array / scale) + zero, info.min, info.max)
        return np.asarray((codes - zero) * scale, np.float32)


def _codes_read(quantized: onnx.ModelProto) -> dict[str, list[_Codes | None]]:
    """By layer the codes that its inputs come from; None for an input in float."""
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    made: dict[str, _Codes] = {}
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) > 2 and {*node.input[1:]} <= constants.keys():
            scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
            made[node.output[0]] = _Codes(scale, zero, axis)
    return {node.name: [made.get(name) for name in node.input] for node in quantized.graph.node
            if node.op_type in LAYERS}


def _values(model: onnx.ModelProto, names: Sequence[str], samples: Sequence[Feeds]) -> list[dict[str, np.ndarray]]:
    """Tensors of a model by name, for every sample."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    session = ort.session(copy)
    inputs = {value.name for value in copy.graph.input}
    wanted = [name for name in names if name not in inputs]
    return [{**sample, **dict(zip(wanted, session.run(wanted, dict(sample)), strict=True))} for sample in samples]


def _run(node: onnx.NodeProto, inputs: Sequence[np.ndarray], model: onnx.ModelProto) -> np.ndarray:
    """The output of a layer for these inputs."""
    names = [f"input_{index}" for index in range(len(inputs))]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(names)
    values = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
              for name, array in zip(names, inputs, strict=True)]
    graph = onnx.helper.make_graph([copy], "layer", values, [onnx.ValueInfoProto(name=copy.output[0])])
    proto = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return np.asarray(ort.session(proto).run(None, dict(zip(names, inputs, strict=True)))[0], np.float64)


def _layers(floats: onnx.ModelProto, quantized: onnx.ModelProto, own: Mapping[str, float],
            excluded: Sequence[str]) -> list[QuantizedLayer]:
    """What became of every layer."""
    originals = {tensor.name: tensor for tensor in floats.graph.initializer}
    codes = {tensor.name: tensor for tensor in quantized.graph.initializer}
    types = {value.name: value.type.tensor_type.elem_type for value in (*floats.graph.value_info, *floats.graph.input)}
    types |= {tensor.name: tensor.data_type for tensor in floats.graph.initializer}
    decoded = {node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    in_codes = {node.name for node in quantized.graph.node if decoded.issuperset(node.input[:2])}
    rows = []
    for node in floats.graph.node:
        if node.op_type not in LAYERS:
            continue
        name = node.input[1]
        weight = numpy_helper.to_array(originals[name]) if name in originals else np.zeros(0)
        after = numpy_helper.to_array(codes[f"{name}_quantized"]) if f"{name}_quantized" in codes else weight
        if np.count_nonzero(after[weight == 0]):
            raise ModelError(f"layer '{node.name}': zeros of its weight would not stay zeros; report a defect")
        is_double = onnx.TensorProto.DOUBLE in (types.get(each) for each in node.input)
        reason = "" if node.name in in_codes else BUDGET_SPENT if node.name in excluded else (
            "float64 cannot be; convert the model to float32 first" if is_double else "onnxruntime leaves it so")
        rows.append(QuantizedLayer(node.name, node.op_type, own.get(node.name, 0.0), not reason, weight.size,
                                   int(np.count_nonzero(weight)), int(np.count_nonzero(after)), reason))
    return rows
