"""The reference networks, their export, the committed model and the command line."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparsec.models import dataset, digits

MODEL = "lenet300-digits-95.onnx"
LONG = "SPARSEC_LONG" in os.environ


def committed(name):
    return dataset.files("sparsec.models").joinpath("data", name)


@pytest.fixture
def sparsec(monkeypatch, capsys):
    """Runs the command line; gives the exit code and what it wrote."""
    from sparsec.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparsec", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def test_import_needs_no_torch():
    code = "import sys, sparsec.models; sparsec.models.digits(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits():
    inputs, labels = digits()
    assert (inputs.shape, inputs.dtype, labels.shape, labels.dtype) == ((360, 784), np.float32, (360,), np.int64)
    assert inputs.min() == 0
    assert inputs.max() == 1
    assert set(labels) == set(range(10))


def test_training_and_held_out_digits_are_disjoint():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    held_out, training = digits()[0], dataset.training_digits()[0]
    assert len(held_out) + len(training) == 1797
    assert not {row.tobytes() for row in held_out} & {row.tobytes() for row in training}


def test_committed_model_has_the_stated_sparsity_and_accuracy():
    onnxruntime = pytest.importorskip("onnxruntime")
    data = committed(MODEL).read_bytes()
    weights = [numpy_helper.to_array(t) for t in onnx.load_from_string(data).graph.initializer if len(t.dims) == 2]
    assert sum(np.count_nonzero(w) for w in weights) == 13310
    session = onnxruntime.InferenceSession(data)
    right = sum(session.run(None, {"input": x[None]})[0].argmax() == y for x, y in zip(*digits(), strict=True))
    assert right == 354


@pytest.mark.parametrize(("name", "weights"), [
    ("lenet300", 266_200), ("lenet300-bn", 266_200), ("lenet5", 61_470), ("vgg16", 14_715_584), ("vgg19", 20_070_080),
    ("resnet18", 11_261_632), ("resnet50", 25_502_912), ("mobilenetv2", 3_469_760), ("bert", 84_936_192),
])  # fmt: skip
def test_networks_have_their_published_sizes(torch, name, weights):
    from sparsec.models.masks import prunable
    from sparsec.models.networks import NETWORKS

    with torch.device("meta"):
        model = NETWORKS[name].make()
    assert sum(weight.numel() for weight in prunable(model).values()) == weights


@pytest.mark.parametrize("name", ["lenet300-bn", "lenet5", "vgg16", "mobilenetv2"])
def test_export_computes_what_the_module_does(torch, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from sparsec.models.networks import NETWORKS
    from sparsec.models.onnx_export import export

    kind, path = NETWORKS[name], tmp_path / "model.onnx"
    model, x = kind.build(0), torch.rand(2, *kind.shape)
    export(model, path, (x,))
    found = onnxruntime.InferenceSession(path).run(["output"], {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, model(x).detach(), rtol=1e-3, atol=1e-4)
    assert b"stack_trace" not in path.read_bytes()


def test_prune_command_writes_the_model_it_describes(torch, sparsec, tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    path, report = tmp_path / "model.onnx", tmp_path / "report.json"
    code, written = sparsec("prune", "--model", "lenet300", "--criterion", "synflow", "--quota", "igq",
                            "--sparsity", 0.99, "--effective", "--epochs", 2, "-o", path, "--json", report)
    assert code == 0, written.err
    description = json.loads(report.read_text())
    assert description["effective_sparsity"] == pytest.approx(0.99, abs=1e-4)
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for layer in description["layers"]:
        assert np.count_nonzero(weights[layer["layer"]]) == layer["kept"]
    assert "accuracy on the held-out digits" in written.out


def test_study_command_draws_both_figures(torch, tmp_path):
    from sparsec.models import study, study_plots

    dense, points = study.run(study.Plan(("random", "SynFlow"), (10.0, 100.0), seeds=(0,), epochs=1))
    for figure in (study_plots.plot_compression(points), study_plots.plot_accuracy(points, dense)):
        figure.savefig(tmp_path / "figure.svg")
        assert "SynFlow" in (tmp_path / "figure.svg").read_text()
    gap = {(p.method, round(p.direct)): p.effective / p.direct for p in points}
    assert gap["random", 100] > 5
    assert gap["SynFlow", 100] < 1.02


@pytest.mark.parametrize("figure", ["layers", "effective", *["quotas", "random", "magnitude"] * LONG])
def test_figures_hold_what_the_paper_says(torch, figure):
    from sparsec.models.study_figures import FIGURES, Asked

    figures, numbers = FIGURES[figure](Asked("lenet5", (100.0,), (0,), 1, lambda *_: 1.0, lambda *_: None))
    assert set(figures) == {figure}
    if figure == "layers":  # ideal gas quotas take more of the larger layers, of every method
        large = {row["method"]: row["layer_compression"] for row in numbers["layers"] if row["layer"] == "fc1.weight"}
        small = {row["method"]: row["layer_compression"] for row in numbers["layers"] if row["layer"] == "conv1.weight"}
        assert all(large[method] > small[method] for method in large)
    elif figure == "effective":  # pruning to an effective target meets it, the other goes beyond
        exact = [row for row in numbers["effective"] if row["to_effective"]]
        assert exact
        assert all(row["effective"] == pytest.approx(row["target"], rel=0.02) for row in exact)
        assert max(row["effective"] / row["target"] for row in numbers["effective"]) > 1.5
    else:
        assert all(point["effective"] > 0.99 * point["direct"] for point in numbers["points"])
        assert len({point["method"] for point in numbers["points"]}) == (5 if figure == "random" else 6)


def test_the_speed_over_sparsity_is_that_of_compiled_networks(torch):
    from sparsec.cli.study import speedup
    from sparsec.models.study_sparsity import sparsity

    figures, numbers = sparsity("lenet300", 0, 1, speedup, lambda *_: None, levels=(0.0, 0.95))
    dense, pruned = numbers["levels"]
    assert set(figures) == {"hill", "parameters", "classes"}
    assert pruned["speedup"] > 1.3 * dense["speedup"]
    assert pruned["weights"] < 0.06 * dense["weights"]
    assert pruned["accuracy"] == pytest.approx(np.mean(pruned["classes"]), abs=0.01)


def test_learned_masks_and_whole_neurons_have_rows_in_the_study(torch):
    from sparsec.models import study

    methods = ("random, Smart-Ratio", "movement", "L0", "APoZ", "geometric median")
    _, points = study.run(study.Plan(methods, (4.0,), seeds=(0,), epochs=1))
    assert [point.method for point in points] == list(methods)
    assert all(point.direct == pytest.approx(4, rel=0.1) for point in points)
    assert all(point.effective > 0.999 * point.direct for point in points)


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["--model", "alexnet", "--sparsity", "0.5"], 2, "lenet300"),
    (["--model", "lenet300"], 2, "sparsity"),
    (["--model", "vgg16", "--criterion", "snip", "--sparsity", "0.5"], 1, "--data"),
    (["--model", "vgg16", "--schedule", "gradual", "--sparsity", "0.5"], 1, "--data"),
    (["--model", "vgg16", "--quota", "uniform+", "--sparsity", "0.9999"], 1, "0 <= sparsity < 0.9998"),
    (["--model", "lenet300", "--criterion", "random", "--sparsity", "0.9999", "--epochs", "0"], 1, "cuts every path"),
    (["--model", "vgg16", "--data", "digits-test.npz", "--sparsity", "0.5"], 2, "`inputs` and `labels`"),
])  # fmt: skip
def test_prune_command_refuses_in_one_line(torch, sparsec, tmp_path, arguments, code, message):
    arguments = [committed(a) if a.endswith(".npz") else a for a in arguments]
    found, written = sparsec("prune", *arguments, "-o", tmp_path / "model.onnx")
    assert (found, written.err.count("\n")) == (code, 1), written.err
    assert message in written.err


def test_export_command_asks_for_the_weights(sparsec, tmp_path):
    code, written = sparsec("export", "squeezenet", "-o", tmp_path / "model.onnx")
    assert code == 2
    assert "--weights" in written.err


def test_export_command_writes_a_network(torch, sparsec, tmp_path):
    code, written = sparsec("export", "lenet5", "--batch", 2, "-o", tmp_path / "model.onnx")
    assert code == 0, written.err
    shape = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [size.dim_value for size in shape.dim] == [2, 1, 28, 28]
