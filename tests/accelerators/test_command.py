"""The commands: one table of several accelerators, their page, configurations, and wrong uses."""

import json
from importlib.resources import files

import numpy as np
import pytest
from onnx import helper
from typer.testing import CliRunner

from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.eie.accelerator import ACCELERATORS as EIES
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.inference import infer
from sparsec.backends.accelerators.eie.network import compile_network
from sparsec.backends.accelerators.network import record
from sparsec.backends.accelerators.simulate import simulate
from sparsec.cli import app
from sparsec.errors import SparsecError
from sparsec.graph.compare import random_feeds
from tests.support.accelerators import convolutions
from tests.support.eie import planned, sparse_weight
from tests.support.texts import model

LENET = files("sparsec.models") / "data" / "lenet300-digits-95.onnx"
RNG = np.random.default_rng(0)


def sparsec(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("accelerator", ACCELERATORS.values(), ids=ACCELERATORS)
def test_a_network_runs_layer_by_layer(accelerator):
    model = convolutions()
    network = record(model, random_feeds(model))
    assert [layer.name for layer in network.layers] == ["conv", "depthwise", "linear"]
    assert [layer.groups for layer in network.layers] == [1, 8, 1]
    result = simulate(network.layers, accelerator)
    ran = [layer for layer in result.layers if not layer.refused]
    assert len(result.layers) == 3
    assert result.total.activity.cycles == sum(layer.activity.cycles for layer in ran)
    assert result.refused_share == pytest.approx(
        sum(layer.dense_macs for layer in result.layers if layer.refused) / sum(
            layer.dense_macs for layer in network.layers))
    assert all(layer.weight_bytes > 0 and sum(layer.energy_pj.values()) > 0 for layer in ran)


@pytest.mark.parametrize(("node", "shape", "w"), [
    (helper.make_node("MatMul", ["x", "w"], ["y"], "l"), (3, 30), (30, 17)),
    (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "l", transB=1), (3, 30), (17, 30)),
    (helper.make_node("Conv", ["x", "w", "b"], ["y"], "l", group=2, pads=[1, 1, 1, 1]), (1, 6, 5, 5), (8, 3, 3, 3))])
def test_eie_is_the_one_of_its_own_command_to_the_cycle_and_byte(node, shape, w):
    extra = {"b": sparse_weight(RNG, (w[0],))} if "b" in node.input else {}
    model = planned([node], shape, w=sparse_weight(RNG, w), **extra)
    feeds = {"x": np.maximum(random_feeds(model)["x"], 0)}
    own = infer(compile_network(model, feeds, Architecture()), feeds, EIES["eie"], Architecture()).total
    (here,) = simulate(record(model, feeds).layers, ACCELERATORS["eie"]).layers
    assert here.activity.cycles == own.activity.cycles
    assert here.weight_bytes == own.storage.nbytes
    assert here.activity.spent["useful"] == own.activity.macs
    own_pj = own.energy_pj["by access"]
    assert {part: pj for part, pj in here.energy_pj.items() if part != "DRAM"} == pytest.approx(own_pj)


def test_the_command_compares_and_writes_its_page(tmp_path):
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    result = sparsec("simulate", LENET, "--target", "scnn,sparten,eie,sigma", "--config", "sparten.units=64",
                     "--sweep", "greedy=0,2", "--html", page, "--json", figures)
    assert result.exit_code == 0, result.output
    written = json.loads(figures.read_text())
    assert [each["accelerator"] for each in written["accelerators"]] == ["scnn", "sparten", "eie", "sigma"]
    assert [each["multipliers"] for each in written["accelerators"]] == [1024, 64, 64, 16384]
    assert written["accelerators"][0]["refused_share_of_macs"] == 1
    assert [point["value"] for point in written["sweeps"][0]["points"]] == [0, 2]
    for each in written["accelerators"][1:]:
        assert sum(each["total"]["share_of_multiplier_cycles"].values()) == pytest.approx(1)
    assert page.read_text().count("<svg") == 2
    assert "it runs Conv only" in page.read_text()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--target", "scnn,wings"], "'wings' cannot be simulated; choose from cnvlutin"),
    (["--target", "scnn", "--config", "units"], "--config units: give a parameter and a number"),
    (["--target", "scnn", "--config", "eie.units=3"], "eie.units=3: 'eie' is not among the chosen accelerators"),
    (["--target", "scnn", "--config", "units=0"], "scnn: units is 0"),
    (["--target", "sparten", "--sweep", "units=64,7"], "cluster is 32, which must divide units, 7"),
    (["--target", "scnn", "--sweep", "wings=1"], "cannot sweep 'wings'; choose from units"),
    (["--target", "scnn", "--codebook", "keep"], "--codebook is for --target eie alone; use --config"),
    (["--target", "scnn", "--pes", "0"], "--pes is for --target eie alone; use --config"),
    (["--target", "scnn", "--pes", "4"], "--pes is for --target eie alone; use --config")])
def test_wrong_uses_say_what_to_do(arguments, message):
    result = sparsec("simulate", LENET, *arguments)
    assert isinstance(result.exception, SparsecError)
    assert message in str(result.exception)


@pytest.mark.parametrize("target", ["scnn", "eie"])
def test_open_sizes_are_those_of_the_inputs(target, tmp_path):
    network = model("g (float[n,8] x) => (float[n,4] y) <float[8,4] w> { y = MatMul(x, w) }")
    (tmp_path / "m.onnx").write_bytes(network.SerializeToString())
    np.save(tmp_path / "x.npy", np.ones((3, 8), np.float32))
    for more, fits in ((), True), (("--dim", "n=3"), True), (("--dim", "n=2"), False):
        result = sparsec("simulate", tmp_path / "m.onnx", "-i", tmp_path / "x.npy", "--target", target, *more)
        assert (result.exit_code == 0) is fits, result.output
        assert fits or "dimension 0 of input 'x' is 2, not 3" in str(result.exception)


def test_compiling_tells_whose_arithmetic_differs_and_what_runs_on_the_host(tmp_path):
    text = " ".join(sparsec("compile", LENET, "--target", "scnn", "-o", tmp_path / "m.sparsec").output.split())
    assert "its integers have no limit but --max-error" in text
    assert "3 of 3 layers run on the host: scnn cannot, it runs Conv only" in text


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_accelerator_is_explained(name, tmp_path):
    result = sparsec("accelerators", "--explain", name, "--json", tmp_path / "one.json")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "one.json").read_text())
    assert written["assumptions"] == list(ACCELERATORS[name].assumptions)
    assert "assumptions:" in result.output
    said = "not checked against the paper's text" in " ".join(result.output.split())
    assert said is (name not in ("eie", "eyeriss-v2"))


def test_the_table_lists_them_all():
    result = sparsec("accelerators")
    assert all(name in result.output for name in ACCELERATORS)
    assert "choose from" in str(sparsec("accelerators", "--explain", "wings").exception)
