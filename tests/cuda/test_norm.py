"""Layer norms of sums beside numpy, in the emulator, and within the limits of GPUs."""

import numpy as np
import pytest

from sparsec.kernels.cuda import norm
from sparsec.kernels.cuda.norm import NormParams, Term
from tests.support.cuda.emulator import launches
from tests.support.cuda.products import DTYPES, needs_compiler
from tests.support.cuda.sass import check_limits, needs_nvcc

NORMS = {
    "one row": NormParams(1, 768, (Term(1),), 1e-5),
    "halves": NormParams(6, 48, (Term(6, dtype="float16"),), 1e-5, out="float16"),
    "rows of a table, places and a kind": NormParams(
        12, 64, (Term(12, table=30), Term(6), Term(2, every=6, table=3, index="int32"), Term(1, every=12)), 1e-3),
    "a residual that others read": NormParams(5, 40, (Term(5), Term(5, dtype="bfloat16")), 1e-5, "bfloat16", "float16"),
    "odd features, no bias": NormParams(9, 35, (Term(9), Term(3)), 1e-5, biased=False),
    "many odd features": NormParams(2, 1025, (Term(2),), 1e-5),
    "pairs": NormParams(3, 130, (Term(3, dtype="float16"),), 1e-5, out="float16"),
    "without mean": NormParams(5, 72, (Term(5, dtype="float16"), Term(5)), 1e-5, "float16", "float32", False, False),
    "a row for several warps": NormParams(3, 2056, (Term(3), Term(3)), 1e-5, sums="float32"),
}


def inputs(p, rng):
    """The kernel's arrays, and the sum that is normalised."""
    arrays, total = {}, np.zeros((p.rows, p.features), np.float64)
    for number, term in enumerate(p.terms):
        x = rng.standard_normal((term.table or term.rows, p.features)).astype(DTYPES[term.dtype])
        arrays[f"x{number}"] = x.ravel()
        place = np.arange(p.rows) // term.every % term.rows
        if term.table:
            index = rng.integers(-term.table, term.table, term.rows).astype(term.index)
            arrays[f"index{number}"] = index
            place = index[place]
        total += x.astype(np.float64)[place]
    for name in ("scale", "bias")[:1 + p.biased]:
        arrays[name] = rng.standard_normal(p.features).astype(np.float32)
    return arrays, total


@needs_compiler
@pytest.mark.parametrize("name", NORMS)
def test_kernels_match_numpy(name):
    p = NORMS[name]
    arrays, total = inputs(p, np.random.default_rng(len(name)))
    centred = total - p.centred * total.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + p.epsilon) * arrays["scale"]
    expected += arrays.get("bias", 0)
    outputs = {each: np.zeros(size, DTYPES[dtype]) for each, (size, dtype) in norm.arguments(p).items()
               if each in ("sums", "y")}
    launches.call(norm.build(p), *arrays.values(), *outputs.values(), pipeline="tirx")
    for each, wanted in {"sums": total, "y": expected}.items():
        if each in outputs:
            found = outputs[each].astype(np.float64).reshape(wanted.shape)
            np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=2e-2 if outputs[each].itemsize == 2 else 2e-5)


@pytest.mark.parametrize(("p", "reason"), [
    (NormParams(2, 9000, (Term(2),), 1e-5), "more than 8192"), (NormParams(2, 0, (Term(2),), 1e-5), "no rows")])
def test_what_has_no_kernel_says_why(p, reason):
    assert reason in norm.reject(p)


@needs_nvcc
@pytest.mark.parametrize("features", [768, 8192])
def test_kernels_stay_within_limits(features):
    p = NormParams(128, features, (Term(128, table=100), Term(128)), 1e-5, "float16", "float16")
    check_limits(norm.build(p), 32 * p.warps * p.rows_together, 4 * p.warps * p.rows_together, "sm_80")
