"""Outputs into given arrays, and onnxruntime's bindings, beside a plain run."""

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from sparsec import InferenceSession
from sparsec.errors import InputError, UsageError
from sparsec.runtime.binding import IOBinding
from sparsec.runtime.onnxruntime_arguments import tell
from tests.support.programs import OFFSET, signature_artifact

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
FEEDS = {"x": X, "k": np.array([2**40, -7]), "m": np.array(True)}


@pytest.fixture(scope="module")
def session():
    return InferenceSession(signature_artifact())


@pytest.mark.parametrize("names", [None, ["reshaped", "sum"]])
@pytest.mark.parametrize("make", [lambda: np.zeros((3, 5), np.float32), lambda: np.zeros((5, 3), np.float32).T,
                                  lambda: np.zeros((6, 10), np.float32)[::2, ::2]],
                         ids=["plain", "transposed", "strided"])
def test_an_output_is_written_into_the_given_array(session, names, make):
    array = make()
    found = session.run(names, FEEDS, out={"sum": array})
    assert any(each is array for each in found)
    for one, other in zip(found, session.run(names, FEEDS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_input_may_be_the_output(session):
    x = X.copy()
    session.run(None, {**FEEDS, "x": x}, out={"sum": x})
    np.testing.assert_array_equal(x, X + OFFSET)


@pytest.mark.parametrize(("out", "message"), [
    ({"sum": np.zeros((5, 3), np.float32)}, r"output 'sum' is float32 of shape \(3, 5\); out has float32 of shape"),
    ({"sum": np.zeros((3, 5))}, "out has float64"),
    ({"sum": np.broadcast_to(np.float32(0), (3, 5))}, "cannot be written"),
    ({"sum": [0.0]}, "cannot be written"),
    ({"k_out": np.zeros(2, np.int64)}, "out has an array for 'k_out'; the outputs asked for are 'sum', 'reshaped'"),
])
def test_what_an_output_cannot_be_written_into_is_refused(session, out, message):
    untouched = np.zeros((5, 3), np.float32)
    with pytest.raises(InputError, match=message):
        session.run(["sum", "reshaped"], FEEDS, out={"reshaped": untouched, **out})
    assert not untouched.any()
    with pytest.raises(UsageError, match="out is list"):
        session.run(None, FEEDS, out=[X])


def bind_arrays(binding, x, y):
    binding.bind_cpu_input("x", x)
    binding.bind_cpu_output("sum", y)


def bind_addresses(binding, x, y):
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("sum", "cpu", 0, np.float32, y.shape, y.ctypes.data)


def bind_values(binding, x, y):
    binding.bind_ortvalue_input("x", SimpleNamespace(numpy=lambda: x))
    binding.bind_ortvalue_output("sum", SimpleNamespace(numpy=lambda: y))


@pytest.mark.parametrize("bind", [bind_arrays, bind_addresses, bind_values])
def test_a_binding_reads_and_writes_its_arrays(session, bind):
    binding, x, y = session.io_binding(), X.copy(), np.zeros_like(X)
    bind(binding, x, y)
    binding.bind_cpu_input("k", FEEDS["k"])
    binding.bind_cpu_input("m", FEEDS["m"])
    binding.bind_output("reshaped")
    for factor in (1, 2):  # what the arrays hold when it runs counts
        x[...] = factor * X
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(y, factor * X + OFFSET)
        np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[1], factor * X.reshape(5, 3))
    assert [value.shape() for value in binding.get_outputs()] == [[3, 5], [5, 3]]
    assert binding.get_outputs()[0].data_ptr() == y.ctypes.data
    binding.clear_binding_outputs()
    assert not binding.get_outputs()
    binding.clear_binding_inputs()
    with pytest.raises(InputError, match="given: none"):
        session.run_with_iobinding(binding)


def test_a_binding_shares_the_memory_of_onnxruntimes_values(session):
    x, y = (onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (X, np.zeros_like(X)))
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("sum", y)
    for name in ("k", "m"):
        binding.bind_cpu_input(name, FEEDS[name])
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(y.numpy(), X + OFFSET)


def test_a_binding_on_another_gpu_than_the_sessions_is_refused():
    binding = IOBinding(["x"], ["y"], 0)
    told = "put 'x|y' is bound on cuda:7 and the session runs on cuda:0; bind it there"
    with pytest.raises(InputError, match="^in" + told.replace("|y", "")):
        binding.bind_input("x", "cuda", 7, np.float32, X.shape, X.ctypes.data)
    with pytest.raises(InputError, match="^out" + told.replace("x|", "")):
        binding.bind_output("y", "cuda", 7)
    binding.bind_input("x", "cuda", 0, np.float32, X.shape, X.ctypes.data)
    binding.bind_output("y", "cuda")
    assert (list(binding.on_device), binding.wanted) == (["x"], ["y"])


def test_bad_bindings_are_refused(session):
    binding = session.io_binding()
    with pytest.raises(InputError, match="no input 'z'; it has 'x', 'k', 'm'"):
        binding.bind_cpu_input("z", X)
    with pytest.raises(InputError, match="no output 'z'"):
        binding.bind_output("z")
    with pytest.raises(UsageError, match="on device 'cuda'"):
        binding.bind_output("sum", "cuda")
    with pytest.raises(UsageError, match="element_type and shape"):
        binding.bind_output("sum", "cpu", buffer_ptr=X.ctypes.data)
    with pytest.raises(UsageError, match="element_type 'floaty'; give numpy's"):
        binding.bind_output("sum", "cpu", 0, "floaty", X.shape, X.ctypes.data)
    with pytest.raises(UsageError, match="bound to list; give an OrtValue"):
        binding.bind_ortvalue_input("x", [1.0])
    tell.cache_clear()
    for name, array in FEEDS.items():
        binding.bind_cpu_input(name, array)
    with pytest.warns(UserWarning, match="ignore run_options"):
        session.run_with_iobinding(binding, object())
