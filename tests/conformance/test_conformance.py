"""One of ONNX's node tests for every operator: right, or refused by name. run.py beside this runs all of them."""

import pytest

from tests.conformance.cases import BATCH, collect, opened
from tests.conformance.operators import PAGE, REGENERATE, implemented_by, schemas
from tests.conformance.run import classify
from tests.support.targets import runnable

REFUSED = {  # operators of which the first case is refused, and why that stays so
    "Adagrad": "training", "Adam": "training", "Momentum": "training",
    "TreeEnsemble": "another domain",
    "Not": "a case of opset 1",
}
REFUSED_OPEN = REFUSED | {
    "Attention": "any number of heads", "FlexAttention": "a preview of an operator",
    "RotaryEmbedding": "any number of heads",
}
CASES = {case.name: case for case in collect("node")}
FIRST = {case.operator: case for case in reversed(CASES.values()) if "expanded" not in case.name}


@pytest.mark.parametrize("operator", sorted(FIRST))
def test_one_case_of_every_operator(operator):
    verdict, reason = classify(FIRST[operator])
    assert verdict == ("refused" if operator in REFUSED else "right"), reason


@pytest.mark.parametrize("operator", sorted(FIRST))
def test_one_case_of_every_operator_at_sizes_that_the_run_tells(operator):
    verdict, reason = classify(opened(FIRST[operator]))
    assert verdict == ("refused" if operator in REFUSED_OPEN else "right"), reason


@pytest.mark.parametrize("name", [
    "affine_grid_3d_align_corners_expanded", "dequantizelinear_blocked", "nllloss_NCd1d2d3d4d5_mean_weight_expanded",
    "quantizelinear_blocked_asymmetric", "quantizelinear_e5m2", "quantizelinear_int4", "reduce_max_empty_set",
    "reduce_min_empty_set", "scan_sum"])
def test_rare_forms_at_sizes_that_the_run_tells(name):
    assert classify(opened(CASES[f"test_{name}"])) == ("right", "")


def test_a_mask_that_ends_before_the_keys_in_a_batch_of_any_size():
    case = opened(CASES["test_attention_4d_diff_heads_mask4d_padded_kv"], BATCH)
    assert classify(case) == ("right", "")


def test_a_branch_that_is_never_taken_may_have_sizes_that_make_no_sense():
    assert classify(CASES["test_affine_grid_3d_expanded"]) == ("right", "")


def test_the_page_of_operators_is_current():
    rows = [row.split(" | ") for row in PAGE.read_text().splitlines() if row.startswith("| ")][1:]
    expected = [[schema.name, str(schema.since_version), implemented_by(schema)] for schema in schemas()]
    assert [[name.removeprefix("| "), *cells] for name, *cells in (row[:3] for row in rows)] == expected, REGENERATE


@pytest.mark.parametrize("target", runnable("cpu-avx2", "cpu-generic"))
@pytest.mark.parametrize("operator", ["Attention", "AveragePool", "Conv", "LSTM", "LayerNormalization", "TopK"])
def test_other_instruction_sets(operator, target):
    assert classify(FIRST[operator], target) == ("right", "")
