#!/usr/bin/env python3
"""The table of docs/performance.md: every network of the suite on sparsec and on the engines a user could pick instead.

    python suite.py OUT_DIR [--threads 1|2] [--only resnet50-90,bert-90] [--rounds 5] [--json FILE]

OUT_DIR keeps the models, made on first use by make_models.py, which needs PyTorch. Prints Markdown: the median latency of
each engine, and the ratio of the fastest float32 peer to sparsec, from the same run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NETWORKS = (
    "lenet300-95", "vgg16-90", "mobilenetv1-90", "resnet50-80", "resnet50-90", "resnet50-95", "resnet50-90b4",
    "bert-80", "bert-90", "bert-24", "lenet300-0", "vgg16-0", "mobilenetv1-0", "resnet50-0", "bert-0")
FLOAT32 = ("ort", "openvino", "deepsparse")


def measure(model: Path, threads: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """The engines' figures for one model, by engine; empty where nothing ran."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, str(HERE / "peers.py"), "run", str(model), "--threads", str(threads),
                   "--rounds", str(rounds), "--seconds", str(seconds), "--json", str(result)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        engines: dict[str, dict[str, float]] = json.loads(result.read_text())["engines"] if result.exists() else {}
    return engines


def row(name: str, engines: dict[str, dict[str, float]]) -> str:
    """One line of the table."""
    if "sparsec" not in engines:
        return f"| {name} | did not run | | | | |"
    times = [f"{engines[e]['p50_ms']:.3f}" if e in engines else "-" for e in ("sparsec", *FLOAT32)]
    peers = {engine: engines[engine]["ratio"] for engine in FLOAT32 if engine in engines}
    fastest = min(peers, key=peers.__getitem__)
    return f"| {name} | {' | '.join(times)} | {peers[fastest]:.2f} ({fastest}) |"


def main() -> int:
    """Print the table; exit with 1 where a network did not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    names = args.only.split(",")
    missing = [name for name in names if not (args.out_dir / f"{name}.onnx").exists()]
    if missing:
        subprocess.run([sys.executable, str(HERE / "make_models.py"), str(args.out_dir), *missing], check=True,
                       stdout=subprocess.DEVNULL)
    print("| network | sparsec | onnxruntime | OpenVINO | DeepSparse | fastest peer / sparsec |\n|---|---|---|---|---|---|")
    table = {}
    for name in names:
        table[name] = measure(args.out_dir / f"{name}.onnx", args.threads, args.rounds, args.seconds)
        print(row(name, table[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=2))
    return int(any("sparsec" not in engines for engines in table.values()))


if __name__ == "__main__":
    sys.exit(main())
