#!/usr/bin/env python3
"""What it takes to simulate all accelerators on five networks: a table in Markdown, and the sum.

    python accelerators.py MODELS [NETWORK ...]

MODELS holds what `make_models.py MODELS resnet50-90 mobilenetv1-90 bert-90` writes. $SQUEEZENET names the file of
SqueezeNet's weights, which sees scikit-image's `chelsea`. Networks run one after the other, each in a process of its
own, start and preparation included.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES = {"steps": 20, "inputs": 153, "hidden": 1024}
"""Of the LSTM: inputs and states as ESE's, without its projection."""
KEPT = 0.1


def lstm(folder: Path) -> list[str]:
    """An LSTM with a tenth of its weights."""
    rng, hidden = np.random.default_rng(0), SIZES["hidden"]
    shapes = {"w": (1, 4 * hidden, SIZES["inputs"]), "r": (1, 4 * hidden, hidden)}
    weights = [numpy_helper.from_array((rng.standard_normal(shape) * (rng.random(shape) < KEPT)).astype(np.float32),
                                       name) for name, shape in shapes.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIZES["steps"], 1, SIZES["inputs"]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIZES["steps"], 1, 1, hidden])
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=hidden)
    graph = helper.make_graph([node], "lstm", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), folder / "lstm.onnx")
    return [str(folder / "lstm.onnx")]


def squeezenet(folder: Path) -> list[str]:
    """The network with the weights that Deep Compression pruned, and its picture."""
    from pictures import crops
    from prune_cases import SQUEEZENET

    from sparsec.models import squeezenet as read

    onnx.save(read(SQUEEZENET), folder / "squeezenet.onnx")
    np.savez(folder / "chelsea.npz", data=crops(("chelsea",), 1, 227))
    return [str(folder / "squeezenet.onnx"), "--input", str(folder / "chelsea.npz")]


def simulate(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and megabytes at most of a simulation."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "sparsec", "simulate", *arguments, "--target", "all"], check=True,
                   stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, spent, after.ru_maxrss / 1e3


def main() -> None:
    """Print the table; the memory of a row is the most of it and those above."""
    models, *chosen = sys.argv[1:]
    makers = {"lstm": lstm, "squeezenet": squeezenet}
    total = np.zeros(2)
    print("| network | s | processor, s | at most, MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for network in chosen or ("lstm", "squeezenet", "mobilenetv1-90", "resnet50-90", "bert-90"):
            make = makers.get(network)
            given = [str(Path(models) / f"{network}.onnx")] if make is None else make(Path(name))
            seconds, spent, memory = simulate(given)
            total += seconds, spent
            print(f"| {network} | {seconds:.1f} | {spent:.1f} | {memory:,.0f} |", flush=True)
    print(f"| all | {total[0]:.1f} | {total[1]:.1f} | |")


if __name__ == "__main__":
    main()
