"""`sparsec bench --formats` and `--sweep`: every format is timed and weighed, and regret is counted."""

import json

import pytest

from sparsec.bench.formats import SWEPT, Form, Layer, Regret, linear_layer, regret, time_model
from sparsec.formats import FORMATS
from sparsec.kernels.cpu import products, rows
from sparsec.target import resolve
from tests.support.cli import sparsec, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_model(folder / "model.onnx")
    return folder


def test_every_format_that_accepts_a_layer_has_latency_and_bytes(folder):
    text = sparsec("bench", folder / "model.onnx", "--formats", "all", "--json", folder / "formats.json")
    figures = json.loads((folder / "formats.json").read_text())
    assert len(figures["layers"]) == 2
    for layer in figures["layers"]:
        names = {form["format"] for form in layer["formats"]}
        assert {"dense", "bitmap", "coo", "delta", "csr", "csc"} <= names
        for form in layer["formats"]:
            assert form["measured_us"] > 0
            assert (form["stored_bytes"] or form["bytes"]) > 0
            assert form["runs_as"] in names
    assert figures["regret"]["worst"] >= figures["regret"]["mean"] >= 1
    assert "runs as" in text
    assert "median error of predictions" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_sweep_covers_every_sparsity_and_is_plotted(folder):
    text = sparsec("bench", "--sweep", "48x64x1", "--plot", folder / "sweep.svg", "--json", folder / "sweep.json")
    points = json.loads((folder / "sweep.json").read_text())["points"]
    assert [point["sparsity"] for point in points] == list(SWEPT)
    sizes = [next(f["stored_bytes"] for f in point["formats"] if f["format"] == "delta") for point in points]
    assert sizes == sorted(sizes, reverse=True)
    assert "98 % zeros" in text
    assert "<svg" in (folder / "sweep.svg").read_text()


def test_wrong_requests_are_refused(folder):
    assert "--sweep" in sparsec("bench", code=2)
    assert "no format 'x'" in sparsec("bench", folder / "model.onnx", "--formats", "x", code=2)
    for sizes in ("1x2", "axbxc", "0x1x1"):
        assert sizes in sparsec("bench", "--sweep", sizes, code=2)


def test_rows_decide_the_kernels_family():
    few, many = (time_model(linear_layer(64, 64, count, 0.9), resolve("cpu"))[0].formats for count in (1, 64))
    for forms, families in ((few, rows.FAMILIES), (many, products.FAMILIES)):
        assert {form.kernel.split("/")[0] for form in forms} <= {name.split("/")[0] for name in families}
    assert {name.split()[0] for name in FORMATS} >= {form.format.split()[0] for form in few}


def test_regret_counts_choices_and_predictions():
    def kernel(name, predicted, measured):
        return Form(name, "", "", 0, predicted, measured, name, None)

    formats = kernel("csr", 2, 4), kernel("dense", 8, 5)
    layers = [Layer("", "", (), 0, 0, formats[0], kernel("csr", 2, 2), formats),
              Layer("", "", (), 0, 0, formats[1], formats[1], formats)]
    assert regret(layers) == Regret(layers=2, mean=1.5, worst=2.0, never_slower=1.0, prediction_error=0.55)
