"""What `inspect` and `compile` tell about a model or an artifact, as JSON-serialisable dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, Required, TypedDict

import msgspec
import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.node import JOINING, PARTS, RECURRENT, evaluate, holder
from sparsec.artifact.file import Artifact
from sparsec.backends.program import UNKNOWN, TensorSpec
from sparsec.errors import ArtifactError
from sparsec.graph.quantized import dequantized
from sparsec.graph.sparse import SPARSE_KEY
from sparsec.passes import quantized
from sparsec.runtime.sized.declared import Shape, declared

BY_ELEMENT = {"Add", "Div", "Mul", "Sub"}
PASSING = {"DequantizeLinear", "Expand", "Identity"}
"""Operators that hand constants on to others."""


class _Layer(TypedDict, total=False):
    """The row of a layer in a report, as far as it is printed."""

    layer: Required[str]
    format: Required[str]
    kernel: str
    shape: list[int]
    weights: int
    nonzeros: int
    bytes: int
    predicted_us: float
    measured_us: float | None
    error: float | None
    projection_error: float | None
    rows: int | None
    instead_of: list[str]
    passed_over: dict[str, float]


class _Narrow(TypedDict):
    """An operator without weights that computes with fewer bits."""

    layer: str
    operator: str
    precision: str


class _Verification(TypedDict, total=False):
    """The comparison of the outputs, as far as it is printed."""

    skipped: str
    reference: str
    tolerance: float | None
    relative_error: dict[str, float]
    same_class: dict[str, float]


class _Outside(TypedDict, total=False):
    """A layer that runs without sparsec's kernels, as far as it is printed."""

    layer: Required[str]
    reason: Required[str]


class _Single(TypedDict):
    """Why one thread runs what several might; see `compiler.threads`."""

    one_us: float
    all_us: float
    measured: bool


class _Overlap(TypedDict):
    """Whether kernels are launched before those in front of them have ended; see `compiler.overlap`."""

    early: bool
    off_us: float | None
    on_us: float | None
    shapes: NotRequired[dict[str, list[int]] | None]


class _Report(TypedDict, total=False):
    """A report, as far as it is printed."""

    layers: Required[list[_Layer]]
    outside: list[_Outside]
    narrow: list[_Narrow]
    batch: dict[str, Any] | None
    strip: dict[str, Any] | None
    verification: _Verification | None
    single: _Single
    overlap: _Overlap


def _check(report: Mapping[str, Any]) -> None:
    """Raises ArtifactError unless a report has the types of what is printed of it."""
    try:
        msgspec.convert(report, _Report)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"the artifact's report contradicts itself ({error}); compile the model again") from error


def describe_model(model: ir.Model) -> dict[str, Any]:
    """Signature, operators and weights of a model as `graph.reader.load` returns it.

    A layer is a node with a constant operand of rank 2 or more; totals count a weight once that several share. Constant
    codes belong to the layer that reads what they stand for; what equals their zero point is zero.
    """
    read = model.clone()
    quantized.read_foreign(read)
    _join(read.graph)
    layers = [layer for node in read.graph for layer in _layers(node)]
    return {
        "opset": model.graph.opset_imports.get(""),
        "inputs": [_signature(value) for value in model.graph.inputs],
        "outputs": [_signature(value) for value in model.graph.outputs],
        "operators": dict(Counter(_operator(node) for node in model.graph).most_common()),
        "layers": layers,
        "totals": {**_totals(list({layer["weight"]: layer for layer in layers}.values())), "layers": len(layers)},
    }


def describe_artifact(artifact: Artifact, size: int) -> dict[str, Any]:
    """Signature, needs, plan and verification of an artifact whose file has `size` bytes.

    Raises:
        ArtifactError: its report is none.

    """
    manifest = artifact.manifest
    for bucket in artifact.buckets:
        _check(bucket.report)
    sizes = declared(artifact)
    inputs, outputs = ({}, {}) if sizes is None else (sizes.inputs, sizes.outputs)
    return {
        **artifact.report,  # first, so that nothing in it stands for what the manifest says
        "target": manifest.target,
        "threads": manifest.threads,
        "sparsec": manifest.sparsec,
        "tvm": manifest.tvm,
        "platform": manifest.platform,
        "features": list(manifest.features),
        "needs": {name: list(each) for name, each in manifest.needs.items()},
        "inputs": [_spec(spec, inputs) for spec in manifest.inputs],
        "outputs": [_spec(spec, outputs) for spec in manifest.outputs],
        "dims": {} if sizes is None else {name: limit and list(limit) for name, limit in sizes.dims.items()},
        "file_bytes": size,
        "library": "object files" if manifest.objects else "shared object",
        "library_bytes": len(artifact.library),
        "weights_bytes": len(artifact.weights),
        "formats": by_format(_once(artifact.report["layers"])),
        "totals": _totals(_once(artifact.report["layers"])),
        "rows": _rows(artifact.report["layers"]),
        "buckets": [_bucket(bucket) for bucket in artifact.buckets] if artifact.others else [],
    }


def _once(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Every layer once: where it has kernels for several numbers of rows, that for the most."""
    most = max((layer.get("rows") or 0 for layer in layers), default=0)
    return [layer for layer in layers if layer.get("rows") in (None, most)]


def _rows(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By number of rows that there are kernels for, the predicted microseconds of all layers."""
    counts = sorted({layer["rows"] for layer in layers if layer.get("rows")})
    return [{"rows": count, "predicted_us": sum(layer.get("predicted_us", 0.0) for layer in layers
                                                if layer.get("rows") == count)} for count in counts]


def _bucket(bucket: Artifact) -> dict[str, Any]:
    """What is a bucket's own; the rest of the description is the first one's."""
    return {"inputs": [_spec(spec, {}) for spec in bucket.manifest.inputs], "library_bytes": len(bucket.library), **{
        key: bucket.report.get(key) for key in ("layers", "batch", "verification")},
        "totals": _totals(_once(bucket.report["layers"]))}


def by_format(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plan's layers summed per format, the format of most layers first."""
    counts = Counter(layer["format"] for layer in layers)
    return [{"format": name, **_totals([layer for layer in layers if layer["format"] == name])}
            for name, _ in counts.most_common()]


def _totals(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over layers, of what they have."""
    keys = ("weights", "nonzeros", "bytes", "predicted_us")
    return {"layers": len(layers),
            **{key: sum(layer[key] for layer in layers) for key in keys if all(key in layer for layer in layers)}}


def _layers(node: ir.Node) -> list[dict[str, Any]]:
    """One entry for every weight of rank 2 or more, also where exporters pass a shared one by Identity."""
    entries = []
    passes_on = node.op_type in PASSING or node.outputs[0].const_value is not None
    operands = () if passes_on else node.inputs[1:3] if node.op_type in RECURRENT else node.inputs
    name = node.name or node.outputs[0].name or ""
    for place, value in enumerate(None if each is None else _passed(each) for each in operands):
        codes = dequantized(value)
        stored = value if value is None or codes is None else holder(value)
        tensor = None if stored is None else stored.const_value
        if value is None or tensor is None or len(tensor.shape) < 2 or _is_index(tensor) or (
                _is_vector(node, tensor)):
            continue
        numbers = tensor.numpy() if codes is None else codes.values()
        entries.append({
            "layer": f"{name}{PARTS[place + 1]}" if node.op_type in RECURRENT else name,
            "operator": _operator(node), "weight": value.name,
            "shape": [int(dim) for dim in tensor.shape.numpy()], "dtype": tensor.dtype.numpy().name,
            "weights": tensor.size, "nonzeros": int(np.count_nonzero(numbers)), "bytes": tensor.nbytes,
            "sparse_initializer": value.metadata_props.get(SPARSE_KEY),
        })
    return entries


def _is_index(tensor: ir.TensorProtocol) -> bool:
    """Whether a constant says where numbers lie, or which of them count, and is no weight."""
    return tensor.dtype in (ir.DataType.INT64, ir.DataType.BOOL)


def _is_vector(node: ir.Node, tensor: ir.TensorProtocol) -> bool:
    """Whether a constant is a bias or a scale that is written as a matrix of one row, as skl2onnx does."""
    return node.op_type in BY_ELEMENT and sum(int(dim) > 1 for dim in tensor.shape.numpy()) < 2


def _join(graph: ir.Graph) -> None:
    """Gives what is cut out of constants, or made of several, its value."""
    for node in graph:
        inputs = [None if value is None or value.is_graph_input() or value.const_value is None
                  else value.const_value.numpy() for value in node.inputs]
        read = [each is not None for each, value in zip(inputs, node.inputs, strict=True) if value is not None]
        if node.op_type in JOINING and read and all(read) and (found := evaluate(node, inputs)) is not None:
            node.outputs[0].const_value = ir.tensor(found)


def _passed(value: ir.Value) -> ir.Value:
    """The value behind nodes that pass it on as it is."""
    producer = value.producer()
    while producer is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _operator(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _signature(value: ir.Value) -> dict[str, Any]:
    shape = None if value.shape is None else [dim if isinstance(dim, int) else dim.value or "?" for dim in value.shape]
    return {"name": value.name, "dtype": None if value.dtype is None else value.dtype.numpy().name, "shape": shape}


def _spec(spec: TensorSpec, named: Mapping[str, Shape]) -> dict[str, Any]:
    """A tensor of an artifact; sizes that the run tells have the names that the model gives them, or "?"."""
    shape = named.get(spec.name, ["?" if size == UNKNOWN else size for size in spec.shape])
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(shape)}
