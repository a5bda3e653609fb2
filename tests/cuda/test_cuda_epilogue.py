"""Every activation of an epilogue on GPUs agrees with its numpy reference, NaN included."""

import numpy as np
import pytest

from sparsec.graph.operators.epilogue import ACTIVATIONS as REFERENCES
from sparsec.kernels.cuda import mma_dense
from sparsec.kernels.cuda.params import MmaParams, Tile
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.emulator import launches
from tests.support.cuda.products import needs_compiler

ALPHA, BETA = 0.2, 0.6
GRID = np.concatenate([np.linspace(-12, 12, 499), [-1e4, 1e4, 0, 1e-6, np.nan]]).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize("activation", sorted(REFERENCES))
def test_activations_agree(activation):
    epilogue = Epilogue(activation, ALPHA, BETA)
    p = MmaParams(len(GRID), 1, 4, Tile(64, 8, 32, (2, 1), 2), out="float32", epilogue=epilogue)
    y = np.zeros(p.m, np.float32)
    values = mma_dense.pack(np.zeros((p.m, p.k), np.float16), p)["values"]
    launches.call(mma_dense.build(p), values, GRID, np.zeros(p.k, np.float16), y, pipeline="tirx")
    expected = REFERENCES[activation](GRID.astype(np.float64), ALPHA, BETA)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * max(1, np.nanmax(np.abs(expected))))
