"""Batches run in shares of their rows where that is faster, and nobody sees anything of it but speed."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import sparsec
from sparsec.artifact.file import Artifact
from sparsec.bench.feeds import random_inputs
from sparsec.cli import app
from sparsec.compiler.batches import MOST_SHARES, shares
from sparsec.cost import residency
from sparsec.cost.calibration import keep
from sparsec.cost.roofline import DEFAULT_MACHINE
from sparsec.errors import ArtifactError, InputError

ROWS, SHAPE = 16, (16, 32, 32)
RNG = np.random.default_rng(0)


def network(head="r = Reshape(p, s) y = MatMul(r, v)", rows=ROWS):
    """A convolution of images, with the number of rows written into the shape of a Reshape."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[{rows}, 16, 32, 32] x) => (float[n, 10] y)'
        f"{{ c = Conv<pads=[1,1,1,1]>(x, w) h = Relu(c) p = GlobalAveragePool(h) {head} }}")
    for name, shape in {"w": (16, 16, 3, 3), "v": (16, 10)}.items():
        weight = RNG.standard_normal(shape) * (RNG.random(shape) < 0.3)
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([rows, 16]), "s"))
    return model


MODEL = network()


@pytest.fixture(autouse=True)
def slow_memory(tmp_path, monkeypatch):
    """A machine on which activations should not leave the L2 cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for threads in (1, 2):
        keep(replace(DEFAULT_MACHINE, memory_bytes_per_s=1e8), threads)


OPTIONS = {
    "as it is": {}, "threads": {"threads": 2}, "strict ieee": {"strict_ieee": True}, "bf16": {"precision": "bf16"},
    "int8": {"precision": "int8", "max_error": 0.1}, "size": {"optimize": "size"},
    "codec": {"optimize": "balanced", "codec": "f16"}, "generic": {"target": "cpu-generic"},
    "real inputs": {"inputs": {"x": RNG.standard_normal((2 * ROWS, *SHAPE)).astype(np.float32)}},
    "measured": {"tune": "measure"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_to_compile_divides_batches(name):
    artifact = sparsec.compile(MODEL, **{"tune": "off", **OPTIONS[name]})
    batch, verification = artifact.report["batch"], artifact.report["verification"]
    assert batch["parts"] == artifact.manifest.parts
    assert batch["parts"] * batch["share"] == ROWS
    assert batch["parts"] > 1 or name == "measured"
    assert artifact.manifest.inputs[0].shape == (ROWS, *SHAPE)
    assert max(verification["relative_error"].values()) <= verification["tolerance"]


def test_a_session_takes_and_returns_all_rows_at_once():
    artifact = Artifact.load(sparsec.compile(MODEL, tune="off").to_bytes())
    session = sparsec.InferenceSession(artifact)
    assert session.get_inputs()[0].shape == [ROWS, *SHAPE]
    assert session.get_outputs()[0].shape == [ROWS, 10]
    x = RNG.standard_normal((ROWS, *SHAPE)).astype(np.float32)
    (engine,) = session._engines.idle
    assert engine.direct.outputs[0].shape == (ROWS // artifact.manifest.parts, 10)  # a share needs no virtual machine
    first, second = (session.run(["y"], {"x": each})[0] for each in (x, x[::-1]))
    np.testing.assert_array_equal(first, second[::-1])
    with pytest.raises(InputError, match=r"given: float32 of shape \(1, 16, 32, 32\)"):
        session.run(None, {"x": x[:1]})


def test_rows_that_read_the_same_weights_run_at_once():
    keep(DEFAULT_MACHINE, 1)
    weights = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in
               {"w": (256, 512), "v": (512, 16)}.items()}
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[32, 256] x) => (float[32, 16] y)'
                                    "{ h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    assert sparsec.compile(model, tune="off").report["batch"]["share"] == 32


def test_activations_leave_the_cache_as_they_grow():
    sizes = [1 - residency.shares(moved, 1 << 20)[0] for moved in (0, 1 << 19, 1 << 20, 1 << 22, 1 << 24, 1 << 30)]
    assert sizes == sorted(sizes)
    assert (sizes[1], sizes[-2], sizes[-1]) == (0, 1, 1)


def test_one_row_is_no_batch():
    artifact = sparsec.compile(network(rows=1), tune="off")
    assert (artifact.report["batch"], artifact.manifest.parts) == (None, 1)


def test_a_batch_whose_rows_meet_runs_at_once_and_says_why():
    batch = sparsec.compile(network("r = Reshape(p, s) q = MatMul(r, v) y = Softmax<axis=0>(q)"),
                            tune="off").report["batch"]
    assert (batch["parts"], batch["candidates"]) == (1, [])
    assert "Softmax" in batch["reason"]


def test_a_second_compilation_need_not_time_again(tmp_path):
    reports = [sparsec.compile(MODEL, tune="measure").report["batch"] for _ in range(2)]
    assert reports[0] == reports[1]


def test_random_inputs_are_for_all_rows():
    artifact = sparsec.compile(network(), tune="off")
    assert artifact.manifest.parts > 1
    assert {name: array.shape for name, array in random_inputs(artifact).items()} == {"x": (ROWS, 16, 32, 32)}


def test_the_summary_says_how_rows_run(tmp_path):
    onnx.save(MODEL, tmp_path / "model.onnx")
    result = CliRunner().invoke(app, ["compile", str(tmp_path / "model.onnx"), "--tune", "off",
                                      "-o", str(tmp_path / "model.sparsec"), "--json", str(tmp_path / "report.json")])
    batch = json.loads((tmp_path / "report.json").read_text())["batch"]
    shares = f"{batch['parts']} shares of {batch['share']}"
    assert f"batch: {ROWS} rows as {shares}, predicted to be the fastest" in result.stdout


def test_a_manifest_whose_rows_do_not_divide_is_refused():
    artifact = sparsec.compile(MODEL, tune="off")
    damaged = replace(artifact, manifest=replace(artifact.manifest, parts=5))
    with pytest.raises(ArtifactError, match="do not divide into 5 parts"):
        Artifact.load(damaged.to_bytes())


@pytest.mark.parametrize("rows", [2, 7, 12, 32, 97, 720, 1 << 20])
def test_shares_divide_the_rows_from_one_to_all(rows):
    found = shares(rows)
    assert found[0] == 1
    assert found[-1] == rows
    assert found == sorted(set(found))
    assert all(rows % share == 0 for share in found)
    assert len(found) <= MOST_SHARES
