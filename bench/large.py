#!/usr/bin/env python3
"""What compiling, opening and running a large decoder takes; models by `make_large.py`.

    python large.py MODEL.onnx [--precision int8] [--sequence 1..4] [--tokens 16] [--no-verify]

Memory is that of the process: its own pages, and those that files lie in, which the system can take back. The artifact
is opened and run in a process of its own. Outputs of random int8 networks err by much: they are compared, not refused.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

import sparsec

INTERVAL_S = 0.05
MEGABYTE = 1e6


def resident() -> tuple[int, int]:
    """Kilobytes of the process: its own, and mapped files'."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]), int(fields["RssFile"].split()[0])


class Watch(threading.Thread):
    """The largest memory by step."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.step, self.begin, self.peaks = "start", time.perf_counter(), {}

    def run(self) -> None:
        while True:
            old = self.peaks.get(self.step, (0, 0))
            self.peaks[self.step] = tuple(map(max, old, resident()))
            time.sleep(INTERVAL_S)

    def tell(self, step: str, _share: float) -> None:
        if step != self.step:
            self.step = step
            print(f"{time.perf_counter() - self.begin:7.1f} s: {step}", flush=True)


def build(arguments: argparse.Namespace, output: Path) -> None:
    watch = Watch()
    watch.start()
    artifact = sparsec.compile(arguments.model, precision=arguments.precision, tune="off", progress=watch.tell,
                               dims={"batch": 1, "sequence": arguments.sequence}, verify=arguments.verify,
                               max_error=1e9)
    watch.tell("save", 1.0)
    artifact.save(output)
    watch.tell("done", 1.0)
    print(f"{output}: {output.stat().st_size / MEGABYTE:.0f} MB; compared: {artifact.report['verification']}"[:300])
    for step, (own, mapped) in watch.peaks.items():
        print(f"{step:>8}: at most {own / 1e3:.0f} MB of its own, {mapped / 1e3:.0f} MB of files")


def use(path: str, tokens: int) -> None:
    begin = time.perf_counter()
    session = sparsec.InferenceSession(path)
    print(f"opened in {time.perf_counter() - begin:.2f} s")
    caches = {each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
              for each in session.get_inputs()[1:]}
    token, times = np.array([[1]]), []
    for _ in range(tokens):
        begin = time.perf_counter()
        logits, *present = session.run(None, {"input_ids": token, **caches})
        times.append(time.perf_counter() - begin)
        token, caches = logits[:, -1].argmax(-1)[:, None], dict(zip(caches, present, strict=True))
    median = statistics.median(times[2:])
    print(f"first token {times[0]:.2f} s, then {1e3 * median:.1f} ms a token, {1 / median:.1f} tokens a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--precision")
    parser.add_argument("--sequence", default="1..4")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--no-verify", dest="verify", action="store_false")
    arguments = parser.parse_args()
    if Path(arguments.model).suffix == ".sparsec":
        use(arguments.model, arguments.tokens)
        return
    output = Path(arguments.model).with_suffix(".sparsec")
    build(arguments, output)
    subprocess.run([sys.executable, __file__, str(output), "--tokens", str(arguments.tokens)], check=True,
                   env=os.environ)


if __name__ == "__main__":
    main()
