"""The cost model beside what an H200 was measured at: `bench/figures/products-h200.json`, and unstructured weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.cuda.products import options
from sparsec.cost.gpu import DEVICES
from sparsec.cost.option import GpuWork
from sparsec.cost.plan import choose
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve

FIGURES = json.loads((Path(__file__).parents[2] / "bench" / "figures" / "products-h200.json").read_text())
H200 = DEVICES["sm_90"]


def kernels(case, prefix=""):
    """(predicted, measured, format) of the kernels of a case, in microseconds."""
    return [(H200.seconds(GpuWork(**each["work"])) * 1e6, each["us"], each["format"])
            for each in case["engines"].values() if "work" in each and each["format"].startswith(prefix)]


def chosen(weight, tokens):
    """The candidate that runs a weight for so many tokens."""
    layer = GpuProduct(weight, np.zeros(len(weight), np.float32), tokens, Epilogue())
    return choose("layer", options(layer, resolve("cuda-sm90"), "fp16")[0], machine=H200).winner


CASES = pytest.mark.parametrize("case", FIGURES["cases"].values(), ids=FIGURES["cases"])


@CASES
@pytest.mark.parametrize("prefix", ["", "dense", "nm"])
def test_the_choice_is_not_much_slower_than_the_best(case, prefix):
    found = kernels(case, prefix)
    assert min(found)[1] <= 1.25 * min(us for _, us, _ in found)


def test_choices_are_near_the_best_on_average():
    regrets = [min(found)[1] / min(us for _, us, _ in found)
               for case in FIGURES["cases"].values() for found in (kernels(case), kernels(case, "dense"))]
    assert np.mean(regrets) <= 1.03


@CASES
def test_what_is_chosen_is_never_slower_than_dense(case):
    assert min(kernels(case))[1] <= min(us for _, us, _ in kernels(case, "dense"))


@CASES
def test_predictions_are_near_what_was_measured(case):
    ratios = [predicted / us for predicted, us, _ in kernels(case)]
    assert 0.85 < np.median(ratios) < 1.15
    assert min(ratios) > 0.7
    assert max(ratios) < 1.3


@CASES
def test_what_cublaslt_takes_is_predicted(case):
    weight = np.broadcast_to(np.float32(1), (case["size"],) * 2)
    layer = GpuProduct(weight, np.zeros(case["size"], np.float32), case["columns"], Epilogue())
    found, _ = options(layer, resolve("cuda-sm90+cublaslt"), "fp16")
    (predicted,) = (H200.seconds(each.work) * 1e6 for each in found if each.kernel == "cublaslt")
    assert 0.95 < predicted / case["engines"]["PyTorch dense, cuBLASLt"]["us"] < 1.16


def test_splitting_many_tokens_is_priced_by_its_partial_sums():
    found = [each["work"] for each in FIGURES["cases"]["8192 x 8192, 4096"]["engines"].values() if "work" in each]
    split = max(found, key=lambda work: work.get("partial_bytes", 0))
    whole = GpuWork(**{**split, "partial_bytes": 0})
    assert H200.seconds(GpuWork(**split)) - H200.seconds(whole) > 400e-6  # measured: 553 us


FEW_TOKENS = {  # 8192 x 8192, non-zeros and tokens -> us of the best prototype for unstructured weights
    (0.5, 1): 26.0, (0.3, 1): 19.0, (0.2, 1): 14.7, (0.1, 1): 9.7}
DENSE_US = 32.8


@pytest.mark.parametrize(("density", "tokens"), FEW_TOKENS)
def test_unstructured_weights_of_few_tokens_are_predicted_as_measured(density, tokens):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((160, 8192), np.float32) * (rng.random((160, 8192)) < density)
    winner = chosen(np.resize(rows, (8192, 8192)), tokens)
    assert winner.option.format in ("bitmap", "gaps 8")
    assert winner.predicted_s * 1e6 == pytest.approx(FEW_TOKENS[density, tokens], rel=0.3)
    assert winner.predicted_s * 1e6 < DENSE_US


@pytest.mark.parametrize(("outputs", "inputs"), [(3072, 768), (768, 3072)])
def test_what_two_of_four_leaves_over_does_not_pay_where_it_was_measured_to_lose(outputs, inputs):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((outputs, inputs)) * (rng.random((outputs, inputs)) < 0.1)).astype(np.float32)
    assert "rest" not in chosen(weight, 128).option.format
