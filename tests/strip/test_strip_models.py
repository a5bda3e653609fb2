"""Stripping networks of real size: those that come with the onnx package, with random weights."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from sparsec.graph.compare import random_feeds, relative_error, run_onnxruntime
from sparsec.graph.reader import load
from sparsec.passes.strip import strip
from tests.support.light import PATHS, randomised

KILLED = {("Conv", 1), ("BatchNormalization", 2), ("BatchNormalization", 3)}  # filters, shifts and means


def logits(proto):
    """The same network without its last Softmax, which would hide or magnify differences."""
    last = proto.graph.node[-1]
    if last.op_type == "Softmax":
        proto.graph.node.remove(last)
        proto.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=last.input[0]))
        proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        inferred = onnx.shape_inference.infer_shapes(proto)
        shape = {value.name: value.type for value in inferred.graph.output}[last.input[0]]
        proto.graph.output[0].type.CopyFrom(shape)
    return proto


def edited(proto, change):
    """Replaces constants: `change(node, position, array)` returns new data, or None to leave it."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            new = change(node, position, numpy_helper.to_array(tensors[name])) if name in tensors else None
            if new is not None:
                tensors[name].CopyFrom(numpy_helper.from_array(new, name))
    return proto


def stripped(proto):
    graph = load(proto)
    feeds = random_feeds(graph)
    (expected,) = run_onnxruntime(ir.to_proto(graph), feeds)
    report = strip(graph)
    (actual,) = run_onnxruntime(ir.to_proto(graph), feeds)
    assert relative_error(actual, expected) <= 1e-5
    assert not report.unknown
    return report


@pytest.mark.parametrize("name", PATHS)
def test_networks_with_random_channels_zeroed(name):
    rng = np.random.default_rng(1)

    def kill(node, position, data):
        if node.op_type not in ("Conv", "Gemm") or position != 1 or node is last:
            return None
        alive = rng.random(len(data)) < 0.7
        return data * alive.reshape(-1, *[1] * (data.ndim - 1))

    proto = logits(randomised(name, hidden=256))
    last = proto.graph.node[-1]
    total = stripped(edited(proto, kill)).total
    assert total.after.bytes < total.before.bytes
    assert total.after.flops < total.before.flops


@pytest.mark.parametrize("sparsity", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1"])
def test_networks_pruned_at_random(name, sparsity):
    rng = np.random.default_rng(1)

    def prune(node, position, data):
        if node.op_type not in ("Conv", "Gemm") or position != 1:
            return None
        return (data * (rng.random(data.shape) > sparsity) / np.sqrt(1 - sparsity)).astype(data.dtype)

    total = stripped(edited(logits(randomised(name)), prune)).total
    assert total.after.bytes <= total.before.bytes
    assert total.active <= total.before.nonzero


def test_filter_pruned_resnet_50_strips_to_the_narrow_network():
    """Every second filter inside the bottlenecks is zero, as are its shifts."""
    inner = ("branch2a", "branch2b")

    def kill(node, position, data):
        if not any(part in node.input[1] for part in inner) or (node.op_type, position) not in KILLED:
            return None
        return data * (np.arange(len(data)) % 2).reshape(-1, *[1] * (data.ndim - 1)).astype(data.dtype)

    proto = logits(randomised("resnet50"))
    names = [node.input[1] for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    report = stripped(edited(proto, kill))
    shares = [(0.5 if any(part in name for part in inner) else 1)  # of the filters that are left
              * (0.5 if any(part in name for part in ("branch2b", "branch2c")) else 1)  # and of what they read
              for name in names]
    expected = [share * layer.before.flops for share, layer in zip(shares, report.layers, strict=True)]
    assert [layer.after.flops for layer in report.layers] == expected
    assert not report.kept
