#!/usr/bin/env python3
"""The table of docs/quantization.md: every form of every network of the benchmark, compiled and compared.

    python forms_table.py MODELS_DIR WORK_DIR [--forms qdq,qop,...] [--names resnet50-90,...] [--inputs 100] [--only-table]

makes each file by make_quantized.py, compares it as forms.py does, and keeps what came of it in WORK_DIR/forms.json, so
that a run that was interrupted goes on where it was. Prints the table in Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import forms
import make_quantized

import sparsec

NAMES = tuple(f"{network}-{sparsity}" for sparsity in ("pruned", "0") for network in
              ("resnet50", "mobilenetv1", "vgg16", "bert", "lenet300"))
PRUNED = {"lenet300": "95"}
"""Per cent of the weights that are zero in the pruned networks; 90 elsewhere."""


def resolved(name: str) -> str:
    """A network's name as the files have it."""
    network, _, sparsity = name.partition("-")
    return f"{network}-{PRUNED.get(network, '90')}" if sparsity == "pruned" else name


def outcome_of(models: Path, work: Path, form: str, name: str, inputs: int) -> dict[str, object]:
    """What came of one form of one network: the fields of `forms.Outcome`, or the error."""
    path = work / f"{name}-{form}.onnx"
    (make_quantized.halve if form in make_quantized.HALVES else make_quantized.quantize)(
        form, models / f"{name}.onnx", path)
    try:
        return dataclasses.asdict(forms.compare(path, inputs, tune="off"))
    except sparsec.SparsecError as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        path.unlink()


def cell(found: dict[str, object] | None) -> str:
    """A cell of the table."""
    if found is None:
        return "not run"
    if "failed" in found:
        return "refused"
    error = f"{found['error']:.1e}"
    differing = [f"{found[what]} {text}" for what, text in (("wrong", "differ"), ("ties", "tie")) if found[what]]
    return ", ".join([*differing, error])


def table(done: dict[str, dict[str, object]]) -> str:
    """What is known of all forms, in Markdown."""
    lines = ["| network | " + " | ".join(make_quantized.FORMS) + " |", "|---" * (1 + len(make_quantized.FORMS)) + "|"]
    rows = [[f"| {name}", *(cell(done.get(f"{name}-{form}")) for form in make_quantized.FORMS)]
            for name in map(resolved, NAMES)]
    return "\n".join([*lines, *(" | ".join(row) + " |" for row in rows)])


def main() -> int:
    """Compare what has not been compared yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--forms", default=",".join(make_quantized.FORMS))
    parser.add_argument("--names", default=",".join(map(resolved, NAMES)))
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = arguments.work / "forms.json"
    done = json.loads(kept.read_text()) if kept.exists() else {}
    wanted = [(form, name) for name in arguments.names.split(",") for form in arguments.forms.split(",")]
    for form, name in wanted:
        if f"{name}-{form}" in done or arguments.only_table:
            continue
        done[f"{name}-{form}"] = outcome_of(arguments.models, arguments.work, form, name, arguments.inputs)
        print(f"{name}-{form}: {done[f'{name}-{form}']}", file=sys.stderr, flush=True)
        kept.write_text(json.dumps(done, indent=1))
    print(table(done))
    return 0 if all(found.get("wrong") == 0 for found in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
