"""Fuzzing: whatever a file holds, it is read, compiled or refused by a SparsecError.

`python -m tests.hostile.fuzz SUBJECT --cases N --seed S --directory DIR` tries N cases, or what `--seconds` allow, in
children of this process within `sandbox`'s limits. It leaves the file of what is found in DIR/findings, with what was
said beside it; `--replay FILE` tries one again. Files below DIR alone may be opened. The exit code is 1 where something
was found.
"""

import argparse
import hashlib
import io
import itertools
import json
import os
import random
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

import sparsec
from sparsec.artifact.file import Artifact
from sparsec.cli import tables
from sparsec.cli.options import read_arrays
from sparsec.compiler.buckets import merge
from sparsec.cost.calibration import calibration_of
from sparsec.cost.calibration import key as calibration_key
from sparsec.cost.roofline import DEFAULT_MACHINE
from sparsec.cost.tuning import TuningLog
from sparsec.errors import SparsecError
from sparsec.graph import reader
from sparsec.passes import optimize
from sparsec.report.describe import describe_artifact
from sparsec.target import resolve
from tests.hostile import arguments, growth, mutate, names, operators, sandbox
from tests.hostile.artifacts import members, sealed, small_artifact, stored_artifact
from tests.support.graphs import GRAPHS
from tests.support.texts import model, with_initializers_as_inputs

GRAPHS_USED = ("residual block", "attention standard operator, causal", "norm pow, div", "transposed convolution",
               "activation gelu by erf, half last", "attention one projection, split", "batch norm behind gemm")


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
    """Open an artifact and tell of it, as `inspect` and `verify` do."""
    artifact = Artifact.load(path)
    for bucket in artifact.buckets:
        bucket.constants()
    text = io.StringIO()
    with redirect_stdout(text):
        tables.print_table(("name",), [(spec["name"],) for spec in describe_artifact(artifact, 1)["inputs"]])
    for command in ("inspect", "verify"):
        said, code = names.call([command, str(path)])
        text.write(said)
        assert code in (0, 1, 2), (command, code, said)
    assert all(line.isprintable() for line in text.getvalue().split("\n")), text.getvalue()


def simplify(path):
    """Read a model and optimise it, where constants are computed."""
    graph = reader.load(path)
    optimize.run(graph, None)


def compile_file(path):
    """Compile a model with the verification that ends it."""
    sparsec.compile(path, tune="off")


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
    "growing": (growth.seeds, growth.mutant, simplify),
    "compiled": (growth.seeds, growth.mutant, compile_file),
    "operators": (operators.seeds, operators.mutant, operators.read),
    "names": (names.seeds, names.mutant, names.read),
    "tuning": (lambda: [TUNING], mutant_json, lambda path: TuningLog(path, 0.0)),
    "calibration": (lambda: [calibration()], mutant_json, lambda path: calibration_of(resolve("cpu"), 1, path)),
    "arguments": (arguments.seeds, arguments.mutant, arguments.read),
    "arrays": (lambda: [npz(x=np.ones(3)), npz(a=np.array(1), b=np.ones((2, 2), bool))], mutant_bytes, read_arrays),
}
SPENDING = ("compiled", "operators", "names", "arguments")  # what runs a model may need memory for what that asks for
BESIDE = ("operators",)  # run another program beside, and tell when


def forbid_other_files(directory):
    """From now on, opening a file that lies neither below the directory nor in Python's or the system's is an error."""
    allowed = tuple(map(os.path.realpath, (directory, sys.prefix, sys.base_prefix, Path(__file__).parents[2], "/proc",
                                           "/sys", "/dev", tempfile.gettempdir() + "/sparsec-")))
    tools = ("/usr/", "/lib", "/etc/", tempfile.gettempdir() + "/tmp")  # linkers, and what subprocesses read

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[0], str):
            place = os.path.realpath(arguments[0])
            if not place.startswith((*allowed, *tools)) or place == "/etc/hostname":
                raise AssertionError(f"opens {arguments[0]}")

    sys.addaudithook(watch)


def numbers(most, seconds):
    """Numbers of cases, until there are enough or the time is over."""
    end = time.monotonic() + (seconds or float("inf"))
    return itertools.takewhile(lambda case: time.monotonic() < end and (seconds or case < most), itertools.count())


def main():
    parser = argparse.ArgumentParser(description="Fuzz what reads files.")
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seconds", type=float, help="In place of a number of cases.")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--replay", type=lambda name: Path(name).resolve())
    options = parser.parse_args()
    directory = options.directory.resolve()
    arguments.enter(directory)
    seeds, mutant, read = SUBJECTS[options.subject]
    seeds, path, findings = seeds(), directory / "case", directory / "findings"
    (directory / "weights.bin").write_bytes(bytes(1 << 16))
    (directory.parent / "secret").write_bytes(bytes(1 << 16))
    beside = options.subject in BESIDE
    path.write_bytes(mutant(random.Random(0), seeds))
    with warnings.catch_warnings(), suppress(SparsecError, AssertionError):
        warnings.simplefilter("ignore")
        read(path, bool) if beside else read(path)  # what is imported at the first use counts as nobody's memory
    replayed = options.replay and options.replay.read_bytes()
    forbid_other_files(directory)

    def attempt(case, aside):
        data = replayed or mutant(random.Random(f"{options.seed} {case}"), seeds)
        path.write_bytes(data)
        read(path, aside) if beside else read(path)

    cases = 0

    def counted():
        nonlocal cases
        for case in numbers(1 if options.replay else options.cases, None if options.replay else options.seconds):
            cases += 1
            yield case

    found = 0
    for finding in sandbox.run(counted(), attempt, directory / "errors", spends=options.subject in SPENDING):
        found += 1
        findings.mkdir(exist_ok=True)
        kept = findings / f"{options.subject}-{options.seed}-{finding.case}"
        kept.write_bytes(path.read_bytes())
        kept.with_name(kept.name + ".txt").write_text(finding.reason)
        print(f"{kept}: {finding.reason}", flush=True)
    print(f"{options.subject}: {cases} cases, {found} findings", flush=True)
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
