#!/usr/bin/env python3
"""A layer of every kind beside onnxruntime, with none and 90 % of its weights zero, one thread: a table.

    python kinds.py [--tune measure] [KIND ...]

The ratio is onnxruntime's time over sparsec's, medians of calls in turns. Each kind is a model of one layer, of a size
that networks have, behind and in front of nothing: conversions of layouts count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.graph.ort import session

SECONDS = 1.5
"""What the calls of one model take in all."""
Kind = tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...], dict[str, Any]]
"""Operator, the shape of the input, those of its weights, and attributes."""

KINDS: dict[str, Kind] = {
    "linear, (1, 14, 14, 192) to 768": ("MatMul", (1, 14, 14, 192), ((192, 768),), {}),
    "linear, (4, 7, 7, 192) to 768": ("MatMul", (4, 7, 7, 192), ((192, 768),), {}),
    "linear, (196, 1, 192) to 768": ("MatMul", (196, 1, 192), ((192, 768),), {}),
    "Einsum, bthd,hdm->btm": ("Einsum", (1, 196, 6, 32), ((6, 32, 192),), {"equation": "bthd,hdm->btm"}),
    "Conv, 3 x 3, 64 at 56 x 56": ("Conv", (1, 64, 56, 56), ((64, 64, 3, 3),), {"pads": [1] * 4}),
    "Conv, 5 over a sequence of 400": ("Conv", (1, 128, 400), ((128, 128, 5),), {"pads": [2, 2]}),
    "Conv, 3 x 3 x 3, 64 at 8 x 28 x 28": ("Conv", (1, 64, 8, 28, 28), ((64, 64, 3, 3, 3),), {"pads": [1] * 6}),
    "Conv, 3 x 3, 32 groups of 4": ("Conv", (1, 128, 56, 56), ((128, 4, 3, 3),), {"pads": [1] * 4, "group": 32}),
    "Conv, 3 x 3, 8 groups of 32": ("Conv", (1, 256, 28, 28), ((256, 32, 3, 3),), {"pads": [1] * 4, "group": 8}),
    "ConvTranspose, 4 x 4 by 2": ("ConvTranspose", (1, 128, 28, 28), ((128, 64, 4, 4),),
                                  {"strides": [2, 2], "pads": [1] * 4}),
    "ConvTranspose, 2 x 2 by 2": ("ConvTranspose", (1, 256, 28, 28), ((256, 128, 2, 2),), {"strides": [2, 2]}),
    "ConvTranspose, 8 over a sequence by 4": ("ConvTranspose", (1, 128, 200), ((128, 64, 8),),
                                              {"strides": [4], "pads": [2, 2]}),
    **{f"{name}, {steps} step(s) of {batch}": (name.partition(",")[0], (steps, batch, 128),
                                              ((1, gates * 256, 128), (1, gates * 256, 256)), attributes)
       for name, gates, attributes in (
           ("LSTM", 4, {"hidden_size": 256}), ("GRU", 3, {"hidden_size": 256, "linear_before_reset": 1}),
           ("GRU, reset first", 3, {"hidden_size": 256}), ("RNN", 1, {"hidden_size": 256}))
       for steps, batch in ((20, 1), (20, 8), (1, 1))},
}


def model(kind: Kind, zeros: float) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model of a kind, `zeros` of whose weights are zero by magnitude, and its input."""
    operator, shape, weights, attributes = kind
    rng = np.random.default_rng(0)
    tensors = []
    for number, own in enumerate(weights):
        array = (rng.standard_normal(own) / np.sqrt(np.prod(own) / own[0])).astype(np.float32)
        array[np.abs(array) < np.quantile(np.abs(array), zeros)] = 0
        tensors.append(numpy_helper.from_array(array, f"w{number}"))
    node = helper.make_node(operator, ["x", *(tensor.name for tensor in tensors)], ["y"], **attributes)
    graph = helper.make_graph([node], operator, [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return proto, {"x": rng.standard_normal(shape).astype(np.float32)}


def ratio(kind: Kind, zeros: float, tune: str) -> tuple[float, float]:
    """Onnxruntime's time over sparsec's, and sparsec's in microseconds."""
    proto, feeds = model(kind, zeros)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(proto, path)
        theirs, ours = session(path, 1), sparsec.InferenceSession(sparsec.compile(path, tune=tune))
        times: list[list[float]] = [[], []]
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or len(times[0]) < 5:
            for index, each in enumerate((ours, theirs)):
                begin = time.perf_counter()
                each.run(None, feeds)
                times[index].append(time.perf_counter() - begin)
    return float(np.median(times[1]) / np.median(times[0])), float(np.median(times[0]) * 1e6)


def main() -> None:
    """Print a row for every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", default="off", choices=("off", "measure"))
    parser.add_argument("kinds", nargs="*")
    given = parser.parse_args()
    print("| layer | no zeros | 90 % zeros | us at 90 % |\n|---|---|---|---|")
    for name, kind in KINDS.items():
        if not given.kinds or any(name.startswith(each) for each in given.kinds):
            (dense, _), (pruned, us) = (ratio(kind, zeros, given.tune) for zeros in (0.0, 0.9))
            print(f"| {name} | {dense:.2f} | {pruned:.2f} | {us:.0f} |", flush=True)


if __name__ == "__main__":
    main()
