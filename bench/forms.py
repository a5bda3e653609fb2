#!/usr/bin/env python3
"""Whether quantised and half-precision forms of models compile, and find onnxruntime's classes.

    python forms.py FILE.onnx ... [--inputs 100] [--tune off]        e.g. the files that make_quantized.py writes

Every file is compiled with default options, then run on random inputs by sparsec and by onnxruntime; a half-precision
file that onnxruntime cannot run is compared with its float32 form. A class is the largest entry along the last axis of
an output. Exits with 1 where a file fails or a class differs that is not a tie within an output's tolerance.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto

import sparsec
from sparsec.graph.compare import relative_error
from sparsec.passes import widen
from sparsec.passes.context import Context
from sparsec.target import resolve

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
TIE = 0.05
"""The difference of two entries, relative to the output's largest magnitude, up to which either may be the class."""


@dataclass(frozen=True)
class Outcome:
    """What came of one file: inputs tried, classes that differ beyond ties and within, the largest relative error."""

    inputs: int
    wrong: int
    ties: int
    error: float

    @property
    def is_right(self) -> bool:
        """Whether every class is onnxruntime's, or ties with it."""
        return self.wrong == 0


def feeds_of(session: sparsec.InferenceSession, seed: int) -> dict[str, np.ndarray]:
    """Random inputs: normal floats, and integers that are 0 or 1."""
    rng = np.random.default_rng(seed)
    dtypes = {"tensor(float16)": np.float16, "tensor(bfloat16)": ml_dtypes.bfloat16, "tensor(double)": np.float64}
    feeds = {}
    for info in session.get_inputs():
        shape = [int(size) for size in info.shape]
        feeds[info.name] = (rng.integers(0, 2, shape) if info.type == "tensor(int64)" else
                            rng.standard_normal(shape).astype(dtypes.get(info.type, np.float32)))
    return feeds


def peer_of(path: Path) -> onnxruntime.InferenceSession:
    """onnxruntime on the file, or on its float32 form where the file's inputs or outputs are 16-bit floats."""
    model = onnx.load(path)
    ends = [value.type.tensor_type for value in (*model.graph.input, *model.graph.output)]
    if any(end.elem_type in HALVES for end in ends):
        wide = ir.serde.deserialize_model(model)
        widen.run(wide, Context(resolve("cpu")))
        model = ir.serde.serialize_model(wide)
        halves = [value for value in (*model.graph.input, *model.graph.output)
                  if value.type.tensor_type.elem_type in HALVES]
        for value in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        outputs = {value.name for value in halves}
        for node in model.graph.node:
            if node.op_type == "Cast" and node.output[0] in outputs:
                node.attribute[0].i = TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def compare(path: Path, inputs: int, **options: str) -> Outcome:
    """Compiles a file and compares it with onnxruntime on so many random inputs."""
    session = sparsec.InferenceSession(sparsec.compile(str(path), **options))
    peer = peer_of(path)
    types = {value.name: value.type for value in peer.get_inputs()}
    wrong = ties = 0
    error = 0.0
    for seed in range(inputs):
        feeds = feeds_of(session, seed)
        there = {name: array if types[name] != "tensor(float)" else array.astype(np.float32)
                 for name, array in feeds.items()}
        for mine, theirs in zip(session.run(None, feeds), peer.run(None, there), strict=True):
            a, b = np.asarray(mine, np.float32), np.asarray(theirs, np.float32)
            error = max(error, relative_error(a, b))
            chosen, best = a.argmax(-1)[..., None], b.argmax(-1)[..., None]
            gap = np.take_along_axis(b, best, -1) - np.take_along_axis(b, chosen, -1)
            ties += int(((chosen != best) & (gap <= TIE * np.abs(b).max())).sum())
            wrong += int((gap > TIE * np.abs(b).max()).sum())
    return Outcome(inputs, wrong, ties, error)


def main() -> int:
    """Compare every file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--tune", default="measure", help="that of sparsec.compile")
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.files:
        begin = time.perf_counter()
        try:
            found = compare(path, arguments.inputs, tune=arguments.tune)
            right = found.is_right
            text = f"{found.inputs} inputs, {found.wrong} classes differ, {found.ties} ties, error {found.error:.1e}"
        except sparsec.SparsecError as error:
            right, text = False, f"{type(error).__name__}: {error}"
        failed += not right
        print(f"{path.name}: {'right' if right else 'WRONG'}: {text}; {time.perf_counter() - begin:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
