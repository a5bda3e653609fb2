"""Real networks: the digits on LeNet-300-100, pictures on SqueezeNet, and the command."""

import json
from importlib.resources import files

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from sparsec.backends.accelerators.eie.accelerator import ACCELERATORS
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.inference import infer
from sparsec.backends.accelerators.eie.network import compile_network, run
from sparsec.cli import app
from sparsec.errors import ArtifactError
from sparsec.models import digits, squeezenet
from sparsec.runtime.session import InferenceSession
from tests.support.eie import plan
from tests.support.pictures import CLASSES, SQUEEZENET, needs_squeezenet, picture

ARCH = Architecture()
LENET = files("sparsec.models") / "data" / "lenet300-digits-95.onnx"


def test_digits_lose_less_than_a_point():
    images, labels = digits()
    model = onnx.load(LENET)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = len(images)
    feeds = {"input": images}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    simulated = run(compile_network(plan(model), feeds, ARCH), feeds).outputs["output"]
    dense, here = ((outputs.argmax(axis=1) == labels).mean() for outputs in (expected, simulated))
    assert dense > 0.97
    assert here > dense - 0.01


@pytest.fixture(scope="module")
def squeezenet_model():
    return squeezenet(SQUEEZENET)


@needs_squeezenet
@pytest.mark.parametrize("codebook_bits", [4, 8])
@pytest.mark.parametrize("name", CLASSES)
def test_pictures_keep_their_class(squeezenet_model, name, codebook_bits):
    feeds, arch = {"data": picture(name)}, Architecture(codebook_bits=codebook_bits)
    expected = onnxruntime.InferenceSession(squeezenet_model.SerializeToString()).run(None, feeds)[0]
    network = compile_network(plan(squeezenet_model), feeds, arch)
    inference = infer(network, feeds, ACCELERATORS["eie"], arch, {"prob": expected})
    assert inference.outputs["prob"].argmax() == expected.argmax() == CLASSES[name]
    assert inference.accuracy[0].same_class == 1
    assert len(inference.layers) == 26
    assert inference.host_flops < 0.01


@needs_squeezenet
def test_a_whole_squeezenet_in_time_and_counters(squeezenet_model):
    feeds = {"data": np.random.default_rng(0).normal(0, 60, (1, 3, 227, 227)).astype(np.float32)}
    inference = infer(compile_network(plan(squeezenet_model), feeds, ARCH), feeds, ACCELERATORS["eie"], ARCH)
    activity, total = inference.total.activity, inference.total
    assert total.vectors == 111**2 + 3025 * 9 + 729 * 12 + 169 * 3 + 225
    assert total.dense_macs == 861_339_936 - 81_648  # what pruning has cut off from the outputs is stripped
    spent = activity.entries + activity.empty + activity.starved + activity.tail + activity.drain
    assert spent == ARCH.pes * (activity.cycles - activity.transfer)
    assert total.storage.is_resident(ARCH)


def simulate(*arguments):
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def test_the_command_writes_everything_it_is_asked_for(tmp_path):
    images, _ = digits()
    np.savez(tmp_path / "digit.npz", input=images[:1])
    paths = {name: tmp_path / name for name in ("report.json", "report.html", "plot.png", "trace.json")}
    result = simulate(LENET, "--pes", 16, "--input", tmp_path / "digit.npz", "--json", paths["report.json"], "--html",
                      paths["report.html"], "--plot", paths["plot.png"], "--trace", paths["trace.json"],
                      "--sweep", "fifo=1,4", "--sweep", "pes=4,16")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    figures = json.loads(paths["report.json"].read_text())
    assert figures["architecture"]["pes"] == 16
    assert figures["accuracy"][0]["same_class"] == 1
    assert figures["total"]["time_us"] == pytest.approx(sum(layer["time_us"] for layer in figures["layers"]))
    assert [sweep["parameter"] for sweep in figures["sweeps"]] == ["fifo", "pes"]
    page = paths["report.html"].read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", "").replace("https://matplotlib.org", "")
    assert (tmp_path / "plot-fifo.png").read_bytes()[:4] == b"\x89PNG"
    events = json.loads(paths["trace.json"].read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    assert len({event["tid"] for event in events}) == 17


@pytest.mark.parametrize(("arguments", "message"), [
    ([LENET, "--pes", 0], "pes is 0; it must be positive"), ([], "give a model to simulate, or --paper"),
    ([LENET, "--target", "cpu"], "'cpu' cannot be simulated"), ([LENET, "--sweep", "fifo=a"], "--sweep fifo=a"),
    ([LENET, "--sweep", "value_bits=8"], "cannot sweep 'value_bits'"), ([LENET, "--plot", "x.bmp"], ".png or .svg"),
    ([LENET, "--trace", "x.json", "--trace-layer", "z"], "no layer 'z' to trace"),
    ([LENET, "--codebook", "keep"], "--codebook-bits")])
def test_wrong_usage_says_what_to_do(arguments, message):
    result = simulate(*arguments)
    assert result.exception is not None
    assert message in str(result.exception) + result.output


def test_a_compiled_model_simulates_as_its_source(tmp_path):
    images, _ = digits()
    np.savez(tmp_path / "digit.npz", input=images[:1])
    artifact = tmp_path / "digits.sparsec"
    given = ("--input", tmp_path / "digit.npz", "--json", tmp_path / "report.json")
    result = CliRunner().invoke(app, ["compile", str(LENET), "--target", "eie", "-o", str(artifact), "--inputs",
                                      str(tmp_path / "digit.npz")])
    assert result.exit_code == 0, result.output
    assert artifact.stat().st_size < 0.2 * LENET.stat().st_size
    reports = []
    for source in (LENET, artifact):
        assert simulate(source, *given).exit_code == 0
        reports.append(json.loads((tmp_path / "report.json").read_text()))
    assert reports[0]["layers"] == reports[1]["layers"]
    with pytest.raises(ArtifactError, match="sparsec simulate"):
        InferenceSession(artifact)
    assert "value_bits = 16" in str(simulate(artifact, "--value-bits", 8).exception)
