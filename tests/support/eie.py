"""What the tests of the EIE backend share: data, random matrices and small graphs."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sparsec.compiler.pipeline import run_passes
from sparsec.graph import reader
from sparsec.passes.context import Context
from sparsec.target import resolve

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FC8 = DATA / "alexnet_fc8.npz"
needs_fc8 = pytest.mark.skipif(not FC8.exists(), reason=f"{FC8.name} is not beside the repository")


def random_codes(rng, rows, columns, density, codes=16):
    return (rng.integers(1, codes, (rows, columns)) * (rng.random((rows, columns)) < density)).astype(np.uint8)


@st.composite
def code_matrices(draw):
    """Matrices of codes: empty dimensions, empty rows and columns, long gaps and dense ones."""
    rows, columns = draw(st.integers(0, 90)), draw(st.integers(0, 20))
    density = draw(st.sampled_from([0.0, 0.02, 0.2, 1.0]))
    return random_codes(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), rows, columns, density)


def planned(nodes, shape, **initializers):
    """The graph that the passes make of standard nodes, from input x of the shape to output y."""
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()]
    graph = helper.make_graph(nodes, "test", [source], [result], constants)
    return plan(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def plan(source):
    model = reader.load(source)
    run_passes(model, Context(resolve("eie")))
    return model


def sparse_weight(rng, shape, density=0.3):
    """A weight of 15 distinct non-zero values, so that a codebook of 16 is exact."""
    levels = np.linspace(-0.7, 0.7, 15, dtype=np.float32) + np.float32(0.013)
    return np.where(rng.random(shape) < density, rng.choice(levels, shape), 0).astype(np.float32)
