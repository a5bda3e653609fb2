#!/usr/bin/env python3
"""Latencies where models are deployed, beside the Python session's: a table in Markdown.

    python deploy.py MODELS [--networks resnet50-90,bert-90] [--rounds 7] [--seconds 1] [--threads 1]

MODELS holds what `make_models.py MODELS resnet50-90 bert-90` writes. Of each network: our session, onnxruntime with
sparsec's execution provider on the compiled model, and the C++ example of its bundle, with no environment; they take
turns for some rounds. A row says the least and the median of the rounds' medians and how they compare with the
session's. Takes some five minutes, most of it compiling. Exits with 1 where the plugin is over 5 % or the bundle over
3 % slower, by medians of rounds.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

import sparsec
from sparsec.native.as_onnx import as_onnx
from sparsec.native.bundle import MODEL, write_bundle

SLOWER = {"onnxruntime with the plugin": 1.05, "the bundle's C++ example": 1.03}
"""How many times the session's time each may take."""
Call = Callable[[float], float]
"""From seconds to the median in microseconds of the calls that fit into them."""


def median_us(run: Callable[[], object], seconds: float) -> float:
    """The median of the calls of some seconds."""
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(1e6 * (time.perf_counter() - begin))
    return statistics.median(times)


def ways(artifact: sparsec.Artifact, folder: Path, threads: int) -> dict[str, Call]:
    """How to call a model, by name."""
    own = sparsec.InferenceSession(artifact, threads=threads)
    rng = np.random.default_rng(0)
    feeds = {each.name: rng.integers(0, 100, each.shape) if "int" in each.type
             else rng.standard_normal(each.shape).astype(np.float32) for each in own.get_inputs()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_provider_for_devices(sparsec.register_onnxruntime(), {"threads": str(threads)})
    plugin = onnxruntime.InferenceSession(as_onnx(artifact, ep_context=True), options)
    write_bundle(artifact, folder)
    for command in (("cmake", "-S", folder, "-B", folder / "build"), ("cmake", "--build", folder / "build")):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    expected = own.run(None, feeds)
    for found, right in zip(plugin.run(None, feeds), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4 * np.abs(right).max())

    def example(seconds: float) -> float:
        calls = max(3, round(1e6 * seconds / median_us(lambda: own.run(None, feeds), 0.2)))
        done = subprocess.run([folder / "build" / "run", folder / MODEL, str(calls)], check=True, env={},
                              capture_output=True, text=True)
        found = re.search(r"calls: ([\d.]+) us", done.stdout)
        assert found is not None
        return float(found[1])

    return {"our session in Python": lambda seconds: median_us(lambda: own.run(None, feeds), seconds),
            "onnxruntime with the plugin": lambda seconds: median_us(lambda: plugin.run(None, feeds), seconds),
            "the bundle's C++ example": example}


def main() -> int:
    """Print the table; 1 where a way is slower than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--networks", default="resnet50-90,bert-90")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    failed = False
    print("| network | by | least, ms | median, ms | over the session's |\n|---|---|---|---|---|")
    for network in given.networks.split(","):
        artifact = sparsec.compile(given.models / f"{network}.onnx", threads=given.threads)
        with tempfile.TemporaryDirectory() as name:
            calls = ways(artifact, Path(name) / "bundle", given.threads)
            rounds = [{way: call(given.seconds) for way, call in calls.items()} for _ in range(given.rounds)]
        for way in calls:
            times = [each[way] / 1e3 for each in rounds]
            over = statistics.median(each[way] / each["our session in Python"] for each in rounds)
            failed |= over > SLOWER.get(way, 1.0)
            print(f"| {network} | {way} | {min(times):.2f} | {statistics.median(times):.2f} | {over:.3f} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
