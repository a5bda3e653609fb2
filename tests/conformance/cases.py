"""ONNX's own backend tests as cases: a model with static shapes and tensors of numbers, inputs, expected outputs.

What is left out is what no ahead-of-time compiler for tensors promises: strings, sequences, optionals, random numbers.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case import node as node_cases

from sparsec.graph.reader import OLDEST_OPSET

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
SUITES = ("node", "simple", "pytorch-operator", "pytorch-converted", "light")
ELEMENT_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
QUANTIZED = {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
             "QLinearMatMul", "QuantizeLinear"}
LEFT_OUT = ("random", "multinomial", "bernoulli", "sequence", "optional", "string", "regex", "training", "ai.onnx.ml",
            "image_decoder", "tfidf", "label_encoder")

BATCH = slice(1)
"""The first axis."""


@dataclass(frozen=True)
class Case:
    """One test: `operator` is the model's first; tolerances are numpy's."""

    suite: str
    name: str
    operator: str
    model: onnx.ModelProto
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    rtol: float
    atol: float


def collect(suite):
    """The cases of a suite, in order."""
    sources = {"node": _node_cases, "light": _light_cases}
    return [case for case in sources.get(suite, lambda: _data_cases(suite))() if _is_static(case)]


def opened(case, axes=slice(None)):
    """The case with sizes that only the run tells along these axes; those of int64 may be shapes and stay."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    for index, value in enumerate(given(model)):
        kind = value.type.tensor_type
        for axis, dim in list(enumerate(kind.shape.dim))[axes] if kind.elem_type != onnx.TensorProto.INT64 else ():
            dim.dim_param = f"batch_{dim.dim_value}" if axes == BATCH else f"n{index}_{axis}"
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]
    return replace(case, model=model)


def _node_cases():
    for test in node_cases.collect_testcases(None):
        inputs, outputs = test.data_sets[0]
        yield _case("node", test.name, test.model, inputs, outputs, test.rtol, test.atol)


def _data_cases(suite):
    for data in sorted((DATA / suite).glob("*/test_data_set_0")):
        model = _load(data.parent / "model.onnx")
        if _are_tensors(model):
            counts = len(list(data.glob("input_*.pb"))), len(list(data.glob("output_*.pb")))
            inputs, outputs = ([_read(data / f"{kind}_{index}.pb") for index in range(count)]
                               for kind, count in zip(("input", "output"), counts, strict=True))
            yield _case(suite, data.parent.name, model, inputs, outputs, 1e-3, 1e-5)


def _light_cases():
    """Whole networks of one weight throughout, on the ramp that ONNX's own runner feeds them."""
    for path in sorted((DATA / "light").glob("*.onnx")):
        model = _load(path)
        shape = [dim.dim_value for dim in given(model)[0].type.tensor_type.shape.dim]
        ramp = (np.arange(np.prod(shape)) / np.prod(shape)).astype(np.float32).reshape(shape)
        yield _case("light", path.stem, model, [ramp], [_read(path.with_name(f"{path.stem}_output_0.pb"))], 1e-3, 1e-5)


def given(model):
    """The inputs that are no weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _load(path):
    model = onnx.load(path)
    if model.opset_import[0].version < OLDEST_OPSET:  # as the reader's refusal advises
        model = onnx.version_converter.convert_version(model, OLDEST_OPSET)
    return model


def _read(path):
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _case(suite, name, model, inputs, outputs, rtol, atol):
    inputs, outputs = (tuple(map(_array, arrays)) for arrays in (inputs, outputs))
    return Case(suite, name, model.graph.node[0].op_type if model.graph.node else "", model,
                inputs, outputs, max(rtol, 1e-3), max(atol, 1e-5))


def _array(value):
    """A tensor as an array; types that numpy lacks come as messages."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _is_static(case):
    words = case.name + " ".join({node.op_type for node in case.model.graph.node})
    return not any(word in words.lower() for word in LEFT_OUT) and _are_tensors(case.model)


def _are_tensors(model):
    """Whether inputs and outputs are tensors of numbers without symbolic dimensions; quantisation has every type."""
    types = [value.type for value in (*model.graph.input, *model.graph.output)]
    is_quantized = any(node.op_type in QUANTIZED for node in model.graph.node)
    return all(kind.HasField("tensor_type") and (is_quantized or kind.tensor_type.elem_type in ELEMENT_TYPES)
               and not any(dim.HasField("dim_param") for dim in kind.tensor_type.shape.dim) for kind in types)
