"""Command lines to mutate: whatever a user types, the command ends with 0, 1 or 2 and a message of one line."""

import contextlib
import io
import json
import os
import sys

import numpy as np

from sparsec import cli
from tests.support.texts import model

LINEAR = model('g (float["n",8] x) => (float["n",3] y) <float[8,3] w> { h = MatMul(x, w) y = Relu(h) }')
WORDS = ["", "x", "-", "--", "-1", "0", "1", "2", "7", "999999999999", "nan", "inf", "1e400", "é", "x" * 10_000,
         "%s%n", "\n", "a b", ":", "x:", "x:1", "x:1,8", "x:2/3,8", "x:1..8,8", "x:0,8", "x:-1,8", "x:1..999999999,8",
         "y:1,8", "x:99999999999999999999,8", "model.onnx", "model.sparsec", "x.npz", "missing", ".", "out", "cpu",
         "cpu-generic", "eie", "cuda-sm90", "int8", "codebook5", "rpc://", "rpc://127.0.0.1:1/key", "--help", "--json",
         "--strict", "--portable", "--precision", "--target", "--shape", "--threads", "--optimize", "--codec",
         "--no-verify"]
SEEDS = [line.split() for line in (
    "compile model.onnx --shape x:2,8 --tune off -o out",
    "compile model.onnx --shape x:1/2,8 --tune off --optimize size --codec f16 --json j --threads 2",
    "compile model.onnx --shape x:2,8 --portable --precision bf16 -o out",
    "run model.sparsec -i x.npz -o y.npz --threads 1",
    "inspect model.sparsec --json j", "inspect model.onnx --shape x:2,8", "verify model.sparsec", "targets", "formats",
    "explain model.onnx --shape x:2,8 --target cpu --html out", "strip model.onnx --shape x:2,8 -o out",
    "simulate model.onnx --shape x:2,8", "export nothing", "calibrate --threads 0", "bench missing", "prune nothing")]
LENGTHY = ("bench", "calibrate", "export", "prune", "study")  # only ever with an option that there is none of


def seeds():
    """Command lines, and the files that they name, in the current directory."""
    from sparsec import compile as compile_model

    with open("model.onnx", "wb") as file:  # noqa: PTH123 - a Path would be one line more
        file.write(LINEAR.SerializeToString())
    compile_model(LINEAR, shapes={"x": (2, 8)}, tune="off").save("model.sparsec")
    np.savez("x.npz", x=np.ones((2, 8), np.float32))
    return SEEDS


def mutant(rng, lines):
    """A command line with one to four of its words changed, as JSON."""
    words = list(rng.choice(lines))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(words) + 1)
        match rng.randrange(5):
            case 0:
                del words[at:at + 1]
            case 1:
                words.insert(at, rng.choice(WORDS))
            case 2:
                words.insert(at, rng.choice(rng.choice(lines)))
            case 3 if at < len(words):
                words[at] += rng.choice(["=", ",", ":", "/", "..", rng.choice(WORDS)])
            case _:
                words[at:at + 1] = [rng.choice(WORDS)]
    if any(each in words for each in LENGTHY):
        words.append("--no-such-option")
    return json.dumps(words).encode()


def read(path):
    """Run the command line that the file holds; an AssertionError unless it ends as commands do."""
    arguments, sys.argv = sys.argv, ["sparsec", *json.loads(path.read_bytes())]
    errors, code = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            cli.main()
    except SystemExit as done:
        code = done.code or 0
    finally:
        sys.argv = arguments
    assert code in (0, 1, 2), code
    assert code == 0 or errors.getvalue().strip(), "it fails without a message"


def enter(directory):
    """Work in the directory, the user's cache included."""
    os.chdir(directory)
    os.environ["XDG_CACHE_HOME"] = str(directory)
