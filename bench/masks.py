#!/usr/bin/env python3
"""Attention alone with constant masks: none hidden, causal, and sliding windows, in turns in one process.

    python masks.py [--tokens 2048] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnx
from onnx import helper, numpy_helper

import sparsec

HEADS, DEPTH, ROUNDS = 4, 64, 9


def model(tokens: int, shown: np.ndarray) -> bytes:
    """softmax(Q K^T / 8 + mask) V on heads split from x, which stands for queries, keys and values."""
    width = HEADS * DEPTH
    mask = np.where(shown, 0, np.finfo(np.float32).min).astype(np.float32)
    tensors = [numpy_helper.from_array(np.array([1, tokens, HEADS, DEPTH]), "split"),
               numpy_helper.from_array(np.array([1, tokens, width]), "whole"), numpy_helper.from_array(mask, "mask"),
               numpy_helper.from_array(np.float32(DEPTH ** -0.5), "scale")]
    nodes = [helper.make_node("Reshape", ["x", "split"], ["s"]),
             helper.make_node("Transpose", ["s"], ["q"], perm=[0, 2, 1, 3]),
             helper.make_node("Transpose", ["s"], ["k"], perm=[0, 2, 3, 1]),
             helper.make_node("MatMul", ["q", "k"], ["p"]), helper.make_node("Mul", ["p", "scale"], ["scaled"]),
             helper.make_node("Add", ["scaled", "mask"], ["masked"]),
             helper.make_node("Softmax", ["masked"], ["w"], axis=-1), helper.make_node("MatMul", ["w", "q"], ["o"]),
             helper.make_node("Transpose", ["o"], ["t"], perm=[0, 2, 1, 3]),
             helper.make_node("Reshape", ["t", "whole"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, tokens, width]) for name in "xy")
    graph = helper.make_graph(nodes, "attention", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    query, key = np.arange(arguments.tokens)[:, None], np.arange(arguments.tokens)
    shown = {"nothing hidden": key >= 0 * query, "causal": key <= query,
             **{f"window of {size}": (key <= query) & (key > query - size) for size in (512, 128)}}
    x = np.random.default_rng(0).standard_normal((1, arguments.tokens, HEADS * DEPTH)).astype(np.float32)
    sessions = {name: sparsec.InferenceSession(sparsec.compile(
        model(arguments.tokens, each), tune="off", threads=arguments.threads)) for name, each in shown.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            begin = time.perf_counter()
            session.run(None, {"x": x})
            times[name].append(1e3 * (time.perf_counter() - begin))
    whole = statistics.median(times["nothing hidden"])
    for name, each in times.items():
        share = shown[name].mean()
        print(f"{name}: {statistics.median(each):.1f} ms, {statistics.median(each) / whole:.2f} of the whole, "
              f"{share:.2f} of the scores are seen")


if __name__ == "__main__":
    main()
