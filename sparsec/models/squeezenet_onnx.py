"""SqueezeNet 1.0 as ONNX, from the authors' Deep Compression file (Iandola et al. 2016; Han et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from sparsec.errors import FormatError, ModelError
from sparsec.formats import deep_compression

OPSET = 17
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))  # squeeze, expand
POOL_BEFORE = (2, 5, 9)  # fire modules that follow a pooling layer


@dataclass(frozen=True)
class Convolution:
    """One convolution: weight shape (out, in, kernel, kernel), stride and padding."""

    name: str
    shape: tuple[int, int, int, int]
    stride: int = 1
    padding: int = 0


def convolutions() -> list[Convolution]:
    """The 26 convolutions in network order, which is the order of the file."""
    layers, channels = [Convolution("conv1", (96, 3, 7, 7), stride=2)], 96
    for number, (squeeze, expand) in enumerate(FIRES, start=2):
        layers += [
            Convolution(f"fire{number}/squeeze1x1", (squeeze, channels, 1, 1)),
            Convolution(f"fire{number}/expand1x1", (expand, squeeze, 1, 1)),
            Convolution(f"fire{number}/expand3x3", (expand, squeeze, 3, 3), padding=1),
        ]
        channels = 2 * expand
    return [*layers, Convolution("conv_final", (1000, channels, 1, 1), padding=1)]


def squeezenet(path: str | Path) -> onnx.ModelProto:
    """Decode the file at `path` into a model: `data` float32 (1, 3, 227, 227) -> `prob` (1, 1000).

    The input is a BGR picture of 0..255 less (104, 117, 123). Raises ModelError when the file does not decode.
    """
    layers = convolutions()
    try:
        stored = deep_compression.decode(Path(path).read_bytes(), [layer.shape for layer in layers])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise ModelError(f"{path}: {error}") from error
    initializers = [
        numpy_helper.from_array(array, f"{layer.name}.{part}")
        for layer, decoded in zip(layers, stored, strict=True)
        for part, array in (("weight", decoded.weight), ("bias", decoded.bias))
    ]
    by_name = {layer.name: layer for layer in layers}
    nodes, top = _convolve(by_name["conv1"], "data")
    for number in range(2, len(FIRES) + 2):
        if number in POOL_BEFORE:
            nodes.append(helper.make_node(
                "MaxPool", [top], [f"pool{number}"], f"pool{number}", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
            ))  # fmt: skip
            top = f"pool{number}"
        squeezing, squeezed = _convolve(by_name[f"fire{number}/squeeze1x1"], top)
        narrow, left = _convolve(by_name[f"fire{number}/expand1x1"], squeezed)
        wide, right = _convolve(by_name[f"fire{number}/expand3x3"], squeezed)
        top = f"fire{number}/concat"
        nodes += [*squeezing, *narrow, *wide, helper.make_node("Concat", [left, right], [top], top, axis=1)]
    final, top = _convolve(by_name["conv_final"], top)
    nodes += [
        *final,
        helper.make_node("GlobalAveragePool", [top], ["pooled"], "pool_final"),
        helper.make_node("Flatten", ["pooled"], ["logits"], "flatten"),
        helper.make_node("Softmax", ["logits"], ["prob"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes, "squeezenet",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, (1, 3, 227, 227))],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, (1, 1000))],
        initializers,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="sparsec")
    onnx.checker.check_model(model, full_check=True)
    return model


def _convolve(layer: Convolution, source: str) -> tuple[list[onnx.NodeProto], str]:
    """The convolution and its ReLU; returns the nodes and the name of the output."""
    conv = helper.make_node(
        "Conv", [source, f"{layer.name}.weight", f"{layer.name}.bias"], [layer.name], layer.name,
        kernel_shape=list(layer.shape[2:]), strides=[layer.stride] * 2, pads=[layer.padding] * 4,
    )  # fmt: skip
    relu = f"{layer.name}/relu"
    return [conv, helper.make_node("Relu", [layer.name], [relu], relu)], relu
