#!/usr/bin/env python3
"""The table of docs/performance.md: every network of the suite on sparsec and on the engines a user could pick instead.

    python suite.py OUT_DIR [--threads 1|2] [--only resnet50-90,bert-90] [--rounds 5] [--json FILE]
    python suite.py OUT_DIR --quantized [--threads 1|2] [--artifacts DIR]

OUT_DIR keeps the models, made on first use by make_models.py, which needs PyTorch; quantised ones by make_quantized.py.
Prints Markdown: the median latency of each engine, and the ratio of the fastest peer to sparsec, from the same run. Float
models run beside float32 engines, quantised ones beside what OpenVINO makes of them by itself. Artifacts compiled ahead
are DIR/NAME.tTHREADS.sparsec.
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
QUANTIZED = (
    "lenet300-95-qdq", "vgg16-90-qdq", "mobilenetv1-90-qdq", "resnet50-90-qdq", "bert-90-dyn", "bert-90-qdq",
    "lenet300-0-qdq", "vgg16-0-qdq", "mobilenetv1-0-qdq", "resnet50-0-qdq")
FLOAT32 = ("ort", "openvino", "deepsparse")
ANY = ("ort", "openvino-default", "deepsparse")


def measure(model: Path, peers: tuple[str, ...], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The engines' figures for one model, by engine; empty where nothing ran."""
    artifact = args.artifacts and args.artifacts / f"{model.stem}.t{args.threads}.sparsec"
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, str(HERE / "peers.py"), "run", str(model), "--threads", str(args.threads),
                   "--rounds", str(args.rounds), "--seconds", str(args.seconds), "--json", str(result),
                   "--engines", ",".join(("sparsec", *peers)), *(["--artifact", str(artifact)] if artifact else [])]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        engines: dict[str, dict[str, float]] = json.loads(result.read_text())["engines"] if result.exists() else {}
    return engines


def row(name: str, peers: tuple[str, ...], engines: dict[str, dict[str, float]]) -> str:
    """One line of the table."""
    if "sparsec" not in engines:
        return f"| {name} | did not run | | | | |"
    times = [f"{engines[e]['p50_ms']:.3f}" if e in engines else "-" for e in ("sparsec", *peers)]
    ratios = {engine: engines[engine]["ratio"] for engine in peers if engine in engines}
    fastest = min(ratios, key=ratios.__getitem__)
    return f"| {name} | {' | '.join(times)} | {ratios[fastest]:.2f} ({fastest}) |"


def make(out: Path, names: list[str], *, quantized: bool) -> None:
    """Write the models that are missing."""
    missing = [name for name in names if not (out / f"{name}.onnx").exists()]
    if not missing:
        return
    command = [str(HERE / "make_models.py"), str(out), *missing]
    if quantized:
        sources = [name.rpartition("-")[0] for name in missing]
        make(out, sources, quantized=False)
        forms = [f"{name.rpartition('-')[2]}:{source}" for name, source in zip(missing, sources, strict=True)]
        command = [str(HERE / "make_quantized.py"), str(out), str(out), *forms]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Print the table; exit with 1 where a network did not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="comma-separated; all by default")
    parser.add_argument("--quantized", action="store_true", help="quantised forms of the networks")
    parser.add_argument("--artifacts", type=Path, help="a folder of artifacts compiled ahead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    names = args.only.split(",") if args.only else list(QUANTIZED if args.quantized else NETWORKS)
    peers = ANY if args.quantized else FLOAT32
    make(args.out_dir, names, quantized=args.quantized)
    print("| network | sparsec | onnxruntime | OpenVINO | DeepSparse | fastest peer / sparsec |\n|---|---|---|---|---|---|")
    table = {}
    for name in names:
        table[name] = measure(args.out_dir / f"{name}.onnx", peers, args)
        print(row(name, peers, table[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=2))
    return int(any("sparsec" not in engines for engines in table.values()))


if __name__ == "__main__":
    sys.exit(main())
