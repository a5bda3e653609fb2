"""Mutation fuzzing: whatever a file holds, it is read or refused by a SparsecError.

`python -m tests.hostile.fuzz SUBJECT --cases N --seed S --directory DIR` writes each case to DIR/case before it is
tried, so that the file of a crash, a hang or any other exception is left there; `--replay FILE` tries one again. A case
may take `SECONDS` of processor time, memory up to `MEMORY` bytes and `MULTIPLE` times the file's size, and open files
below DIR only.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

from sparsec.artifact.file import Artifact
from sparsec.backends.program import Packed, Program, TensorSpec
from sparsec.cli import tables
from sparsec.cli.options import read_arrays
from sparsec.compiler.buckets import merge
from sparsec.cost.calibration import calibration_of
from sparsec.cost.calibration import key as calibration_key
from sparsec.cost.roofline import DEFAULT_MACHINE
from sparsec.cost.tuning import TuningLog
from sparsec.errors import SparsecError
from sparsec.graph import reader
from sparsec.kernels.packing.blocks import PaddedBlocks
from sparsec.passes import optimize
from sparsec.report.describe import describe_artifact
from sparsec.target import resolve
from tests.hostile import arguments, mutate
from tests.support.graphs import GRAPHS
from tests.support.texts import model, with_initializers_as_inputs

SECONDS = 20
MEMORY, MULTIPLE = 256 << 20, 64
GRAPHS_USED = ("residual block", "attention standard operator, causal", "norm pow, div", "transposed convolution",
               "activation gelu by erf, half last", "attention one projection, split", "batch norm behind gemm")


def sealed(contents, method=zipfile.ZIP_DEFLATED):
    """An artifact file of any members, with a valid digest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        archive.comment = b" " * 64
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def members(artifact):
    """The members of an artifact's file."""
    with zipfile.ZipFile(io.BytesIO(artifact.to_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def small_artifact():
    """An artifact that nothing executes."""
    constants = np.arange(3, dtype=np.int16), np.ones((2, 2), np.float32)
    spec = TensorSpec("x", "float32", (1,))
    return Artifact.build(Program(b"library", "main", constants, (spec,), (spec,)), resolve("cpu-generic"), 1, b"graph",
                          {"layers": []})


def stored_artifact():
    """An artifact with a weight in its smallest format, which nothing executes."""
    weight = np.zeros((16, 256), np.float32)
    weight[::5, ::7] = 3.5
    recipe = PaddedBlocks(16, 8)
    spec = TensorSpec("x", "float32", (1,))
    constants = tuple(recipe.pack(weight).values())
    packed = (Packed(weight, recipe, tuple(range(len(constants)))),)
    return Artifact.build(Program(b"library", "main", constants, (spec,), (spec,), packed=packed),
                          resolve("cpu-generic"), 1, b"graph", {"layers": []})


def mutant_manifest(rng, seeds):
    """An artifact whose manifest and report are changed and every hash is right."""
    contents = dict(rng.choice(seeds))
    manifest = json.loads(contents["manifest.json"])
    if rng.random() < 0.3:
        contents["report.json"] = mutate.of_json(rng, contents["report.json"])
    if manifest["stored"] and rng.random() < 0.6:
        manifest["stored"] = json.loads(mutate.of_json(rng, json.dumps(manifest["stored"]).encode()))
        changed = manifest
    else:
        changed = json.loads(mutate.of_json(rng, json.dumps(manifest).encode()))
    if isinstance(changed, dict) and isinstance(changed.get("sha256"), dict):
        changed["sha256"] |= {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    contents["manifest.json"] = json.dumps(changed).encode()
    return sealed(contents)


def describe(path):
    """Open an artifact and tell of it, as `inspect` does."""
    artifact = Artifact.load(path)
    for bucket in artifact.buckets:
        bucket.constants()
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        tables.print_table(("name",), [(spec["name"],) for spec in describe_artifact(artifact, 1)["inputs"]])
    assert "\x1b" not in text.getvalue()


def growing(rng, _seeds):
    """A small model that asks for much: functions, sparse tensors, constants, inputs and names without end."""
    from tests.hostile import corpus

    size = rng.choice([1, 2, 7, 33, 500])
    name = rng.choice(mutate.NAMES)
    return rng.choice([
        lambda: corpus.calls(rng.randint(1, 40)), lambda: corpus.many_sparse(size), lambda: corpus.chain(10 * size),
        lambda: corpus.expanding(rng.choice(list(corpus.EXPANDING))), lambda: corpus.renamed(name),
        lambda: wide(rng.choice(["Max", "Min", "Sum", "Mean", "Concat"]), size, name)])()


def wide(kind, inputs, name):
    """An operator of many inputs under a name."""
    node = onnx.helper.make_node(kind, ["x"] * inputs, ["y"], name=name, **({"axis": 0} if kind == "Concat" else {}))
    rows = 2 * inputs if kind == "Concat" else 2
    graph = onnx.helper.make_graph([node], "g", [onnx.helper.make_tensor_value_info("x", 1, [2, 4])],
                                   [onnx.helper.make_tensor_value_info("y", 1, [rows, 4])])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)],
                                  ir_version=8).SerializeToString()


def simplify(path):
    """Read a model and optimise it, where constants are computed."""
    graph = reader.load(path)
    optimize.run(graph, None)


def models():
    """Protos to start from: passes' graphs, a sparse weight, external data, a function, a loop's body."""
    protos = [GRAPHS[name] for name in GRAPHS_USED] + [with_initializers_as_inputs(GRAPHS["residual block"])]
    sparse = model("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, w) }")
    values = onnx.numpy_helper.from_array(np.ones(2, np.float32), "w")
    indices = onnx.numpy_helper.from_array(np.array([1, 5]), "w_indices")
    sparse.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [3, 4]))
    external = onnx.ModelProto()
    external.CopyFrom(GRAPHS["residual block"])
    for tensor in external.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, "weights.bin", 0, 4 * int(np.prod(tensor.dims)))
        tensor.ClearField("raw_data")
    branch = model("g (bool c, float[2] x) => (float[2] y) { y = If<then_branch = t () => (float[2] a)"
                   "{ a = Relu(x) }, else_branch = e () => (float[2] b) { b = Abs(x) }>(c) }")
    return [*protos, sparse, external, branch]


def mutant_model(rng, seeds):
    proto = onnx.ModelProto()
    proto.CopyFrom(rng.choice(seeds))
    if rng.random() < 0.3:
        return mutate.of_bytes(rng, proto.SerializeToString())
    mutate.of_message(rng, proto)
    return proto.SerializeToString()


def mutant_artifact(rng, seeds):
    contents = dict(rng.choice(seeds))
    name = rng.choice(list(contents))
    changed = mutate.of_json if name.endswith(".json") and rng.random() < 0.8 else mutate.of_bytes
    contents[name] = changed(rng, contents[name])
    if rng.random() < 0.2:
        contents = dict(rng.sample(list(contents.items()), rng.randint(0, 5)))
    data = sealed(contents)
    return mutate.of_bytes(rng, data) if rng.random() < 0.2 else data


def mutant_json(rng, seeds):
    changed = mutate.of_json if rng.random() < 0.7 else mutate.of_bytes
    return b"\n".join(changed(rng, line) for line in rng.choice(seeds))


def mutant_bytes(rng, seeds):
    return mutate.of_bytes(rng, rng.choice(seeds))


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def calibration():
    return [json.dumps({calibration_key(1): asdict(DEFAULT_MACHINE)}).encode()]


TUNING = [json.dumps({"key": key, "kernel": "k", "detail": "d", "seconds": 1e-6}).encode() for key in ("a", "b")]
SUBJECTS = {  # name -> (the seeds, the mutator, what reads the file)
    "model": (models, mutant_model, reader.load),
    "artifact": (lambda: [members(small_artifact()), members(merge([small_artifact()] * 2))], mutant_artifact,
                 lambda path: [bucket.constants() for bucket in Artifact.load(path).buckets]),
    "manifest": (lambda: [members(small_artifact()), members(stored_artifact()), members(stored_artifact())],
                 mutant_manifest, describe),
    "growing": (list, growing, simplify),
    "tuning": (lambda: [TUNING], mutant_json, lambda path: TuningLog(path, 0.0)),
    "calibration": (lambda: [calibration()], mutant_json, lambda path: calibration_of(resolve("cpu"), 1, path)),
    "arguments": (arguments.seeds, arguments.mutant, arguments.read),
    "arrays": (lambda: [npz(x=np.ones(3)), npz(a=np.array(1), b=np.ones((2, 2), bool))], mutant_bytes, read_arrays),
}


def forbid_other_files(directory):
    """From now on, opening a file that lies neither below the directory nor in Python's or the system's is an error."""
    allowed = tuple(map(os.path.realpath, (directory, sys.prefix, sys.base_prefix, Path(__file__).parents[2], "/proc",
                                           "/sys", "/dev", tempfile.gettempdir() + "/sparsec-")))

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[0], str) and not os.path.realpath(arguments[0]).startswith(allowed):
            raise AssertionError(f"opens {arguments[0]}")

    sys.addaudithook(watch)


def attempt(read, path):
    """Read the file within the limits; only success or a SparsecError may come out."""
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + MEMORY + MULTIPLE * path.stat().st_size, resource.RLIM_INFINITY))
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True)  # for what hangs without computing
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.suppress(SparsecError):
            warnings.simplefilter("ignore")
            read(path)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main():
    parser = argparse.ArgumentParser(description="Fuzz what reads files.")
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--replay", type=lambda name: Path(name).resolve())
    options = parser.parse_args()
    directory = options.directory.resolve()
    arguments.enter(directory)
    seeds, mutant, read = SUBJECTS[options.subject]
    seeds, path = seeds(), directory / "case"
    (directory / "weights.bin").write_bytes(bytes(1 << 16))
    (directory.parent / "secret").write_bytes(bytes(1 << 16))
    signal.signal(signal.SIGPROF, lambda *_: (_ for _ in ()).throw(TimeoutError(f"takes over {SECONDS} s")))
    path.write_bytes(mutant(random.Random(0), seeds))
    with warnings.catch_warnings(), contextlib.suppress(SparsecError):
        warnings.simplefilter("ignore")
        read(path)  # what is imported at the first use counts as nobody's memory
    replayed = options.replay and options.replay.read_bytes()
    forbid_other_files(directory)
    for case in range(1 if replayed else options.cases):
        path.write_bytes(replayed or mutant(random.Random(f"{options.seed} {case}"), seeds))
        attempt(read, path)


if __name__ == "__main__":
    main()
