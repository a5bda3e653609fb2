"""Compile LeNet-300-100, pruned to 95 % on handwritten digits, and compare it with onnxruntime on held-out digits."""

import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import sparsec
from sparsec.bench.latency import Latency, measure, ratio
from sparsec.cli.tables import duration, nbytes, percent, print_table, shape
from sparsec.models import digits

MODEL = Path(str(files("sparsec.models") / "data" / "lenet300-digits-95.onnx"))
COLUMNS = "layer", "shape", "weights kept", "format", "kernel", "bytes", "predicted"


def main() -> None:
    """Compile, check and time the network."""
    images, labels = digits()
    first = images[:1]
    print(f"Compiling {MODEL.name} ({nbytes(MODEL.stat().st_size)}) for this machine …\n")
    artifact = sparsec.compile(MODEL, inputs={"input": first})
    print_passes(artifact.report["passes"])
    print_table(COLUMNS, [row(layer) for layer in artifact.report["layers"]])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lenet300.sparsec"
        artifact.save(path)
        print(f"\nThe artifact has {nbytes(path.stat().st_size)}.\n")
        session = sparsec.InferenceSession(path)
        reference = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
        sessions = {"sparsec": session, "onnxruntime": reference}
        rows = [(name, accuracy(each, images, labels)) for name, each in sessions.items()]
        print_table((f"{len(labels)} held-out digits", "accuracy"), rows)
        print()
        ours, theirs = measure({"sparsec": str(path), "onnxruntime": str(MODEL)}, {"input": first}, seconds=2)
    print_table(("one digit, one thread", "p50", "p90", "p99"), [latency(ours), latency(theirs)])
    print(f"\nsparsec is {ratio(theirs, ours):.1f}x as fast as onnxruntime.")


def print_passes(passes: list[dict[str, Any]]) -> None:
    """What the passes changed."""
    for report in passes:
        changes = ", ".join(f"{what}: {count}" for what, count in report["counts"].items() if count)
        if changes:
            print(f"{report['name']}: {changes}")
    print()


def row(layer: dict[str, Any]) -> tuple[str, ...]:
    """A layer of the plan."""
    return (layer["layer"], shape(layer["shape"]), percent(layer["nonzeros"], layer["weights"]), layer["format"],
            layer["kernel"], nbytes(layer["bytes"]), duration(layer["predicted_us"]))


def accuracy(session: Any, images: np.ndarray, labels: np.ndarray) -> str:
    """The share of digits that the session gets right."""
    answers = [session.run(None, {"input": image[np.newaxis]})[0].argmax() for image in images]
    return percent((np.array(answers) == labels).sum(), len(labels))


def latency(result: Latency) -> tuple[str, ...]:
    """Percentiles of an engine."""
    return (result.engine, *(duration(getattr(result.summary, f"p{share}_us")) for share in (50, 90, 99)))


if __name__ == "__main__":
    main()
