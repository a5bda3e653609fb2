"""The command line in a process of its own, and a small model to give it."""

import os
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N, 64] x) => (float[N, 10] y) { h = MatMul(x, w) a = Relu(h) y = MatMul(a, v) }"""


def write_model(path, batch="1", text=MODEL):
    """A pruned two-layer network without a dead unit, as an ONNX file."""
    model = onnx.parser.parse_model(text.replace("N", batch))
    rng = np.random.default_rng(0)
    for name, shape in (("w", (64, 32)), ("v", (32, 10))):
        alive = np.arange(shape[0])[:, None] % shape[1] == np.arange(shape[1])
        weight = rng.standard_normal(shape) * (alive | (rng.random(shape) < 0.1))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.save(model, path)
    return path


def sparsec(*arguments, code=0):
    """Run the command line at 80 columns; returns its standard output, or the error for a code other than 0."""
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-m", "sparsec", *map(str, arguments)], capture_output=True, text=True,
                          check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout
