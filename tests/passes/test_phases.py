"""A pass that is entered runs wherever a graph is prepared, and backends lower what the layout pass joins."""

import onnx
import pytest

import sparsec
from sparsec.backends.accelerators.execution import unwatched
from sparsec.backends.cpu.lowerings import LOWERINGS
from sparsec.bench.formats import linear_layer, time_model
from sparsec.bench.profile import profile_layers
from sparsec.cli.simulate_steps import simulate_file
from sparsec.compiler import pipeline
from sparsec.compiler.options import CompileOptions
from sparsec.passes.context import Report
from sparsec.passes.layout.regions import IMAGE_JOINERS, SEEDS, TOKEN_JOINERS
from sparsec.report.explain import explain
from sparsec.target import resolve

LOOKS = {
    "compile": lambda path: sparsec.compile(path, tune="off"),
    "explain": explain,
    "profile": lambda path: profile_layers(path, CompileOptions(tune="off")),
    "formats": lambda path: time_model(path, resolve("cpu")),
    "simulate": lambda path: simulate_file(path, "eie", {}, "cluster", CompileOptions(target="eie"), None, unwatched,
                                           beside_cpu=False),
}


@pytest.mark.parametrize("phase", pipeline.Phase)
@pytest.mark.parametrize("look", LOOKS)
def test_a_pass_that_is_entered_runs_everywhere(look, phase, tmp_path, monkeypatch):
    seen = []

    def witness(model, context):
        seen.append(context.target.name)
        return Report("witness", modified=False)

    monkeypatch.setattr(pipeline, "PASSES", [*pipeline.PASSES, pipeline.Pass(witness, phase)])
    onnx.save(linear_layer(8, 16, 1, 0.5), tmp_path / "model.onnx")
    LOOKS[look](tmp_path / "model.onnx")
    assert len(seen) == 1


def test_the_cpu_lowers_what_the_layout_pass_joins():
    assert {*SEEDS, *IMAGE_JOINERS, *TOKEN_JOINERS} <= set(LOWERINGS)
