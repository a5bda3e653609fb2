"""`sparsec explain` and `sparsec formats`: what they print and write, and what they refuse."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from sparsec.bench.formats import linear_layer
from sparsec.cost.calibration import Calibration
from sparsec.cost.precisions import PRECISIONS
from sparsec.cost.roofline import DEFAULT_MACHINE
from sparsec.errors import UsageError
from sparsec.formats import CODECS, FORMATS
from sparsec.kernels.packing import windows
from sparsec.report import curves
from sparsec.report.explain import explain
from sparsec.target import resolve
from tests.support.cli import sparsec, write_model
from tests.support.cuda import networks
from tests.support.texts import model


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    write_model(folder / "model.onnx")
    text = sparsec("explain", folder / "model.onnx", "--layer", "all", "--html", folder / "plan.html",
                   "--json", folder / "plan.json")
    return text, json.loads((folder / "plan.json").read_text()), (folder / "plan.html").read_text()


def test_explain_fits_80_columns_and_says_where_its_rates_come_from(explained):
    text, figures, _ = explained
    assert all(len(line) <= 80 for line in text.splitlines())
    assert f"rates: {figures['machine']}" in " ".join(text.split())
    alone = text.partition("the 2 layers alone")[2].splitlines()[1:5]
    assert [line.split("  ")[0] for line in alone] == [
        "as they are", *(f"pruned to {percent} % everywhere" for percent in (80, 90, 95))]
    for column in ("structure", "pays from", "of winner's"):
        assert column in text


def test_explain_prices_every_format_of_every_layer_and_says_why_it_lost(explained):
    _, figures, _ = explained
    assert [layer["shape"] for layer in figures["layers"]] == [[32, 64], [10, 32]]
    for layer in figures["layers"]:
        times = [each["predicted_us"] for each in layer["candidates"]]
        assert times[1:] == sorted(times[1:])
        assert times[0] <= DEFAULT_MACHINE.error * min(times)
        assert times[0] == min(times) or layer["candidates"][0]["format"] == "dense"
        assert {"dense", "csr"} <= {each["format"] for each in layer["candidates"]}
        assert layer["candidates"][0]["reason"].startswith(("fastest of", "dense, which others hardly beat, of"))
        assert all("the winner's time" in each["reason"] for each in layer["candidates"][1:])
        assert layer["structure"] == "unstructured"
        pays_from = 1 if layer["break_even"] is None else layer["break_even"]
        assert 0 <= pays_from <= 1
        pays = [point for point in layer["curve"] if point["sparsity"] > pays_from]
        assert all(DEFAULT_MACHINE.error * point["sparse_us"] < point["dense_us"] for point in pays)
        assert layer["smallest"]["bytes"] <= min(each["bytes"] for each in layer["candidates"])


def test_layers_of_one_geometry_share_a_curve_and_few_rows_tell_of_large_weights():
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((2048, 1024)) < 0.1, rng.random((2048, 1024)), 0).astype(np.float32)
    for order in windows.orders(weight):
        whole = sum(windows.slots_in(part, [np.arange(512)], 16)[0] for part in np.split(weight[order], 4))
        assert windows.slots_in(weight, [order], 16) == pytest.approx([whole], rel=0.02)
    graph = networks.Graph()
    graph("MatMul", "x", graph.constant(graph.random(64, 64)), name="h")
    graph("MatMul", "h", graph.constant(graph.random(64, 64)), name="y")
    first, second = explain(graph.model({"x": (1, [1, 64])}, {"y": [1, 64]})).layers
    assert first.curve is second.curve


def test_curves_of_large_weights_lie_near_those_of_every_sparsity(monkeypatch):
    graph = networks.Graph()
    graph("MatMul", "x", graph.constant(graph.random(256, 256)), name="y")
    model = graph.model({"x": (1, [1, 256])}, {"y": [1, 256]})
    (every,) = explain(model).layers
    monkeypatch.setattr(curves, "LARGE", 1)
    (some,) = explain(model).layers
    for exact, near in zip(every.curve, some.curve, strict=True):
        assert near.sparsity == exact.sparsity
        assert near.sparse_us == pytest.approx(exact.sparse_us, rel=0.3)
        assert near.sparsity not in curves.SOME_SPARSITIES or near == exact


def test_more_pruning_is_never_predicted_to_be_slower(explained):
    _, figures, _ = explained
    times = [each["predicted_us"] for each in figures["if_pruned"]]
    assert times == sorted(times, reverse=True)
    assert times[0] <= figures["total"]["dense_us"]


def test_the_page_is_self_contained(explained):
    _, figures, html = explained
    assert "http" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", "").replace("https://matplotlib.org", "")
    for plot in html.split("<svg")[1:]:
        ET.fromstring("<svg" + plot.split("</svg>")[0] + "</svg>")
    assert all(layer["layer"] in html for layer in figures["layers"])


def test_explain_refuses_what_it_has_no_model_of(tmp_path):
    write_model(tmp_path / "model.onnx")
    assert "simulate" in sparsec("explain", tmp_path / "model.onnx", "--target", "eie", code=2)
    assert "no layer 'x'" in sparsec("explain", tmp_path / "model.onnx", "--layer", "x", code=2)


def test_sizes_that_nothing_gives_are_one(tmp_path):
    write_model(tmp_path / "rows.onnx", batch='"rows"')
    assert "for rows = 1;" in sparsec("explain", tmp_path / "rows.onnx")
    unnamed = onnx.load(tmp_path / "rows.onnx")
    unnamed.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    assert explain(unnamed).sizes == {"x.0": 1}


def test_formats_lists_every_format_and_codec(tmp_path):
    text = sparsec("formats", "--json", tmp_path / "formats.json")
    figures = json.loads((tmp_path / "formats.json").read_text())
    assert [each["format"] for each in figures["formats"]] == list(FORMATS)
    assert [each["codec"] for each in figures["codecs"]] == list(CODECS)
    assert all(name in text for name in (*FORMATS, *CODECS))
    assert "M must divide the columns" in text


def test_fewer_bits_add_candidates_and_take_none_away(tmp_path):
    proto = linear_layer(64, 64, 64, 0.8)
    rates = Calibration(DEFAULT_MACHINE, "")
    target = resolve("cpu-avx512")
    target = replace(target, features=target.features | {"avx512_bf16", "avx512_vnni"})
    found = {precision: explain(proto, target, precision=precision, calibration=rates).layers[0]
             for precision in PRECISIONS}
    formats = {precision: {each.format for each in layer.candidates} for precision, layer in found.items()}
    assert formats["fp32"] < formats["bf16"]
    times = [found[precision].candidates[0].predicted_us for precision in PRECISIONS]
    assert times == sorted(times, reverse=True)
    with pytest.raises(UsageError, match="int2"):
        explain(proto, precision="int2", calibration=rates)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    assert "bf16" in sparsec("explain", tmp_path / "model.onnx", "--precision", "bf16", "--layer", "all")


def test_codes_take_less_time_with_more_zeros(tmp_path):
    class Samples(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": np.random.default_rng(0).random((1, 64), np.float32)}]

        def get_next(self):
            return self.left.pop() if self.left else None

    write_model(tmp_path / "model.onnx")
    quantize_static(str(tmp_path / "model.onnx"), str(tmp_path / "codes.onnx"), Samples(), QuantFormat.QDQ)
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "codes.onnx").graph.node)
    figures = explain(tmp_path / "codes.onnx")
    assert {layer.operator for layer in figures.layers} == {"QMatMul"}
    for layer in figures.layers:
        sparse = [point.sparse_us for point in layer.curve]
        assert sparse[0] > sparse[-1]
        assert layer.smallest.bytes <= layer.weights + 4 * layer.shape[0]


def test_what_is_between_the_layers_is_named_and_adds_up(tmp_path):
    text = ("g (float[1,8,16,16] x) => (float[1,8,16,16] y) <float[8,1,3,3] w> "
            "{ c = Conv<group=8, pads=[1,1,1,1]>(x, w) y = Sigmoid(c) }")
    onnx.save(model(text, w=np.ones((8, 1, 3, 3), np.float32)), tmp_path / "m.onnx")
    figures = explain(tmp_path / "m.onnx")
    assert "Conv by channel" in {each.operator for each in figures.between}
    assert sum(each.predicted_us for each in figures.between) == pytest.approx(figures.network_us)
