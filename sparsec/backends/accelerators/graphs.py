"""Planned graphs in artifacts: without the weights that lie in the accelerator's memories, and their signatures."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir

from sparsec.backends.program import TensorSpec


def without(model: ir.Model, names: Collection[str | None]) -> bytes:
    """The graph with the initializers of these names as external data that is nowhere."""
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="omitted")
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def signature(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a graph."""
    specs = []
    for value in values:
        assert value.dtype is not None  # the reader infers types and shapes
        assert value.shape is not None
        specs.append(TensorSpec(str(value.name), value.dtype.numpy().name, value.shape.numpy()))
    return tuple(specs)
