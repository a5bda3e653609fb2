"""PyTorch's modules compiled as they are, and as a backend of `torch.compile`, beside PyTorch."""

import gc
import importlib
import tomllib
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import sparsec  # noqa: E402 - behind the check that PyTorch is there
from sparsec.errors import ModelError, ShapeError, UsageError  # noqa: E402
from sparsec.integrations.torch_backend import backend  # noqa: E402

X = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.ReLU(), torch.nn.Linear(40, 6)).eval()
    with torch.no_grad():
        model[0].weight[torch.rand(40, 24) < 0.8] = 0
    return model


def agree(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_module_becomes_an_artifact():
    model = network()
    artifact = sparsec.from_torch(model, X, input_names=["x"], output_names=["y"], tune="off")
    assert artifact.report["layers"][0]["format"] != "dense"
    agree(sparsec.InferenceSession(artifact).run(["y"], {"x": X.numpy()})[0], model(X))


def test_sizes_may_stay_open():
    model = network()
    artifact = sparsec.from_torch(model, X, dynamic_shapes=({0: torch.export.Dim("batch")},), tune="off")
    session = sparsec.InferenceSession(artifact)
    for rows in (1, 4, 7):
        x = X[:1].repeat(rows, 1)
        agree(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], model(x))


def test_a_size_that_is_not_open_is_told_with_those_that_are():
    with pytest.raises(UsageError, match="Sequential has the sizes of the example; leave dims out, or name"):
        sparsec.from_torch(network(), X, dims={"rows": 2})
    with pytest.raises(ShapeError, match="no input has a dimension 'rows'; the model has 'batch'"):
        sparsec.from_torch(network(), X, dynamic_shapes=({0: "batch"},), dims={"rows": 2})
    with pytest.raises(ShapeError, match=r"^Sequential: no input 'x'"):
        sparsec.from_torch(network(), X, input_names=["y"], shapes={"x": (2, 24)})


def test_bad_modules_are_refused():
    with pytest.raises(UsageError, match="Sequential is in training mode; call its eval"):
        sparsec.from_torch(network().train(), X)
    with pytest.raises(ModelError, match="PyTorch cannot export Sequential to ONNX"):
        sparsec.from_torch(network(), torch.zeros(4, 25))
    with pytest.raises(UsageError, match=r"module is of type int; give a torch.nn.Module"):
        sparsec.from_torch(5, X)
    for given in ({"example": X.numpy()}, {"example": (), "kwargs": {"x": [X.numpy()]}}):
        with pytest.raises(UsageError, match=r"holds an array of numpy's; give tensors, such as torch.from_numpy"):
            sparsec.from_torch(network(), **given)


class Branches(torch.nn.Module):
    """Two graphs, since the value of one decides about the other."""

    def __init__(self):
        super().__init__()
        self.first, self.second = network(), torch.nn.Linear(6, 3).eval()

    def forward(self, x):
        y = self.first(x)
        return self.second(y) if y.sum() > 1e9 else (self.second(-y), y)


def test_a_compiled_module_answers_as_before():
    model = Branches().eval()
    compiled = torch.compile(model, backend=backend, options={"tune": "off"})
    with torch.no_grad():
        for rows in (4, 2):
            for found, expected in zip(compiled(X[:rows]), model(X[:rows]), strict=True):
                agree(found, expected)
        model.second.weight.mul_(2)  # parameters are constants of a graph until they change
        agree(compiled(X)[0], model(X)[0])


def test_no_parameter_comes_to_lie_where_a_compiled_one_did():
    torch.compiler.reset()
    model = torch.nn.Linear(24, 40).eval()
    weight = np.random.default_rng(0).standard_normal((40, 24), np.float32)
    memory = weakref.ref(weight)
    with torch.no_grad():
        model.weight.data = torch.from_numpy(weight)
        compiled = torch.compile(model, backend=backend, options={"tune": "off", "verify": False})
        compiled(X)
        model.weight.data = torch.randn(40, 24)
        del weight
        gc.collect()
        assert memory() is not None  # else the next parameter could be taken for it, which has its address
        agree(compiled(X), model(X))


def test_what_a_backend_cannot_do_is_said():
    torch.compiler.reset()
    compiled = torch.compile(network(), backend=backend)
    with pytest.raises(UsageError, match="does not train"):
        compiled(X)
    with pytest.raises(Exception, match="mode='reduce-overhead'"), torch.no_grad():
        torch.compile(network(), backend=backend, mode="reduce-overhead")(X)


def test_torch_finds_the_backend_by_its_name():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["torch_dynamo_backends"]["sparsec"].partition(":")
    assert getattr(importlib.import_module(module), name) is backend
