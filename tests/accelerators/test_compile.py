"""Compiling for an accelerator: artifacts hold its stored weights, and run from them in its numbers."""

from importlib.resources import files

import pytest

import sparsec
from sparsec.backends.accelerators.build import build, execute, unpack
from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.errors import ArtifactError, UsageError
from sparsec.graph.compare import random_feeds, relative_error
from sparsec.graph.evaluate import evaluate
from sparsec.target import ACCELERATORS as TARGETS
from sparsec.target import SIMULATED, TARGET_NAMES
from tests.support.accelerators import convolutions

LENET = files("sparsec.models") / "data" / "lenet300-digits-95.onnx"


def test_every_accelerator_that_stores_weights_is_a_target():
    assert {name for name, each in ACCELERATORS.items() if each.compiles} == {*TARGETS, "eie"} <= set(TARGET_NAMES)
    assert {name for name, each in ACCELERATORS.items() if not each.compiles} == {*SIMULATED}


@pytest.mark.parametrize("name", TARGETS)
def test_outputs_come_from_the_stored_weights(name):
    model = convolutions()
    feeds = random_feeds(model)
    built = build(model, feeds, name)
    assert [row.layer for row in built.layers] == ["conv", "depthwise", "linear"]
    _, _, weights = unpack(built.program.constants)
    assert set(weights) == {row.layer for row in built.layers if not row.reason.startswith("on the host")}
    (output,) = execute(built.program.constants)(feeds)
    bits = min(ACCELERATORS[name].parameters[each].default for each in ("weight_bits", "activation_bits"))
    assert relative_error(output, evaluate(model, feeds)[0]) < 64 * 2.0**-bits


def test_an_artifact_is_small_and_verified(tmp_path):
    path = tmp_path / "model.sparsec"
    artifact = sparsec.compile(LENET, "sparten")
    artifact.save(path)
    assert path.stat().st_size < 0.3 * LENET.stat().st_size
    assert artifact.manifest.target == "sparten"
    assert max(artifact.report["verification"]["relative_error"].values()) < 0.05
    with pytest.raises(ArtifactError, match="holds no program"):
        sparsec.InferenceSession(path)


def test_an_unknown_accelerator_is_refused():
    with pytest.raises(UsageError, match="unknown target 'wings'"):
        sparsec.compile(LENET, "wings")
