#!/usr/bin/env python3
"""Quantised and half-precision forms of the benchmark's models, for `peers.py`.

    python make_quantized.py MODELS_DIR OUT_DIR FORM:NAME ...        e.g. qdq:resnet50-90 dyn:bert-90 f16:vgg16-90

FORM is qdq (static: int8 weights by output, uint8 activations, QuantizeLinear and DequantizeLinear), qop (the same as
QLinearConv …), dyn (dynamic: MatMulInteger, ConvInteger), all three by onnxruntime's own tools; f16 or bf16 (float16 or
bfloat16 throughout, by a conversion of every tensor). NAME may be "all". Written as OUT_DIR/NAME-FORM.onnx.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

SAMPLES = 4
HALVES = {"f16": (TensorProto.FLOAT16, np.dtype(np.float16)),
          "bf16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16))}
BFLOAT16_OPSET = 22
"""From which on convolutions and poolings take bfloat16."""
FORMS = ("qdq", "qop", "dyn", *HALVES)


class Samples(CalibrationDataReader):
    """Random inputs: normal floats, and integers that are 0 or 1."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path, load_external_data=False).graph
        self._rest = iter([self._sample(graph, seed) for seed in range(SAMPLES)])

    @staticmethod
    def _sample(graph: onnx.GraphProto, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        feeds = {}
        for value in graph.input:
            kind = value.type.tensor_type
            shape = [dim.dim_value or 1 for dim in kind.shape.dim]
            is_integer = kind.elem_type == TensorProto.INT64
            feeds[value.name] = rng.integers(0, 2, shape) if is_integer else rng.standard_normal(shape, np.float32)
        return feeds

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample, None after the last."""
        return next(self._rest, None)


def quantize(form: str, source: Path, target: Path) -> None:
    """One of onnxruntime's forms."""
    if form == "dyn":
        quantize_dynamic(str(source), str(target), per_channel=True, weight_type=QuantType.QInt8)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared))
            quantize_static(
                str(prepared), str(target), Samples(prepared), per_channel=True, activation_type=QuantType.QUInt8,
                quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator,
                weight_type=QuantType.QInt8, extra_options={"WeightSymmetric": True})
    model = onnx.load(target)
    used = {"", "ai.onnx", *(node.domain for node in model.graph.node)}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = min(model.ir_version, 8)  # which every engine of the benchmark reads
    onnx.save(model, target)


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def halve(form: str, source: Path, target: Path) -> None:
    """Every float32 of a model in 16 bits: tensors, casts and the types of values."""
    kind, dtype = HALVES[form]
    model = onnx.load(source)
    if form == "bf16" and model.opset_import[0].version < BFLOAT16_OPSET:
        model = version_converter.convert_version(model, BFLOAT16_OPSET)
    for tensor in tensors(model.graph):
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
    onnx.save(model, target)


def main(arguments: list[str]) -> int:
    """Write every form asked for."""
    models, out = Path(arguments[0]), Path(arguments[1])
    out.mkdir(parents=True, exist_ok=True)
    for each in arguments[2:]:
        form, name = each.split(":")
        if form not in FORMS:
            sys.exit(f"{each}: no form '{form}'; choose one of {', '.join(FORMS)}")
        names = [path.stem for path in sorted(models.glob("*.onnx"))] if name == "all" else [name]
        for stem in names:
            target = out / f"{stem}-{form}.onnx"
            (halve if form in HALVES else quantize)(form, models / f"{stem}.onnx", target)
            print(target, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
