#!/usr/bin/env python3
"""A ReLU network of three layers of 4,096 at one row, with and without the columns of zeros, in turns in one process.

    python skip_zeros.py [--zeros 0.7 0.0] [--threads 1]

Biases leave the given share of zeros behind every layer, and the input has as many. Without: the same file, compiled
with the kernel for vectors of zeros left out.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import sparsec
from sparsec.kernels.cpu.families import FAMILIES

WIDTH, LAYERS, ROUNDS = 4096, 3, 60


def model(zeros: float, rng: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """The file, and its input."""
    x = np.abs(rng.standard_normal((1, WIDTH)).astype(np.float32)) * (rng.random((1, WIDTH)) >= zeros)
    nodes, tensors, name, y = [], [], "x", x
    for layer in range(LAYERS):
        weight = rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(np.sqrt(WIDTH))
        product = y @ weight
        bias = np.full(WIDTH, -np.quantile(product, zeros) if zeros else 1 - product.min(), np.float32)
        y = np.maximum(product + bias, 0)
        tensors += [numpy_helper.from_array(weight, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        nodes += [helper.make_node("Gemm", [name, f"w{layer}", f"b{layer}"], [f"g{layer}"]),
                  helper.make_node("Relu", [f"g{layer}"], [name := f"y{layer}"])]
    ends = [helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, [1, WIDTH]) for each in ("x", name)]
    graph = helper.make_graph(nodes, "relu", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString(), x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.7, 0.0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for zeros in arguments.zeros:
        source, x = model(zeros, np.random.default_rng(0))
        sessions = [_session(source, arguments.threads)]
        skipping = FAMILIES.pop("gemv/skipping")
        sessions.append(_session(source, arguments.threads))
        FAMILIES["gemv/skipping"] = skipping
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        sessions.append(onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]))
        times: list[list[float]] = [[] for _ in sessions]
        for _ in range(ROUNDS):
            for session, own in zip(sessions, times, strict=True):
                begin = time.perf_counter()
                session.run(None, {"x": x})
                own.append(1e3 * (time.perf_counter() - begin))
        ours, without, theirs = map(statistics.median, times)
        fastest = [min(each) for each in times]
        print(f"{zeros:.0%} zeros: {ours:.3f} ms, without skipping {without:.3f} ({without / ours:.2f} times, "
              f"{fastest[1] / fastest[0]:.2f} by the fastest), onnxruntime {theirs:.3f}", flush=True)


def _session(source: bytes, threads: int) -> sparsec.InferenceSession:
    return sparsec.InferenceSession(sparsec.compile(source, tune="off", threads=threads, verify=False))


if __name__ == "__main__":
    main()
