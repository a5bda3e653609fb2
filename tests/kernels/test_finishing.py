"""Residuals that a result takes the place of, or that multiply it, and tiles that end with half a vector."""

from dataclasses import replace

import pytest

from sparsec.backends.cpu.calls import call
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.target import resolve
from tests.support.family_checks import SMALL, check
from tests.support.layers import CASES, images
from tests.support.targets import TARGETS, isa

OF_STENCILS = {name: family for name, family in FAMILIES.items() if family.layer is StencilProduct}
WITH_RESIDUAL = [index for index, case in enumerate(CASES[StencilProduct]) if case[-1]]


@pytest.mark.parametrize("index", WITH_RESIDUAL)
@pytest.mark.parametrize("family", OF_STENCILS.values(), ids=OF_STENCILS)
def test_a_result_takes_the_residuals_place(family, index):
    features, (make, *arguments) = isa("cpu", 1 + index % 2), CASES[StencilProduct][index]
    case = make(features.lanes, *arguments)
    case = replace(case, layer=replace(case.layer, epilogue=replace(case.layer.epilogue, in_place=True)))
    options = family.offers(case.layer, replace(resolve("cpu"), **SMALL), features, family.precision)
    if isinstance(options, str):
        pytest.skip(options)
    kernels = {option.kernel: option for option in options if call(case.layer, option, features).in_place}
    for option in kernels.values():
        check(family, case, option, features, "cpu")


MULTIPLIED = [(name, index) for name, family in FAMILIES.items() if family.layer in (StencilProduct, RowProduct)
              for index, case in enumerate(CASES[family.layer]) if case[-1]]


@pytest.mark.parametrize(("name", "index"), MULTIPLIED)
def test_a_residual_multiplies_what_the_activation_gives(name, index):
    family, features = FAMILIES[name], isa("cpu", 1 + index % 2)
    make, *arguments, _ = CASES[family.layer][index]
    case, alone = make(features.lanes, *arguments, True), make(features.lanes, *arguments, False)
    own = "shape" if family.layer is RowProduct else "epilogue"
    layer = replace(case.layer, **{own: replace(getattr(case.layer, own), multiplies=True)})
    case = replace(case, layer=layer, finished=lambda products: alone.finished(products) * case.inputs[1])
    options = family.offers(layer, replace(resolve("cpu"), **SMALL), features, family.precision)
    if isinstance(options, str):
        pytest.skip(options)
    for option in {option.kernel: option for option in options}.values():
        check(family, case, option, features, "cpu")


def test_rows_that_are_computed_twice_leave_the_residual_alone():
    features, (make, *arguments) = isa("cpu"), (images, (1, 9, 7, 5, 11), 1, 1, 1.0, "relu", True)
    case = make(features.lanes, *arguments)
    layer = replace(case.layer, epilogue=replace(case.layer.epilogue, in_place=True))
    options = FAMILIES["gemm"].offers(layer, resolve("cpu"), features, "fp32")
    assert {call(layer, each, features).in_place for each in options if 7 % each.params.block} == {False}
    assert {call(layer, each, features).in_place for each in options} == {False, True}


@pytest.mark.parametrize(("kernel", "stride", "height", "vectors", "copying"), [
    (1, 1, 2, 0.75, {"im2col"}), (3, 1, 2, 0.75, {"im2col", "mec"}), (3, 2, 2, 0.75, {"im2col", "mec"}),
    (3, 1, 3, 1.5, {"mec"})])
@pytest.mark.parametrize("target", TARGETS)
def test_half_a_vector_ends_a_tile(target, kernel, stride, height, vectors, copying):
    features = replace(isa(target), halves=True)
    width = int(vectors * features.lanes) - (2 if copying == {"mec"} else 1)  # two more are between rows
    case = images(features.lanes, (1, 20, 16, height, width), kernel, stride, 0.2, "relu", True)
    machine, family = replace(resolve(target), **SMALL), FAMILIES["spmm"]
    halved = [each for each in family.offers(case.layer, machine, features, "fp32") if each.params.tiling.half]
    if copying == {"mec"} and features.lanes == 4:
        pytest.skip("two zeros between rows are half a vector")
    modes = {(each.kernel, each.params.block > 1): each for each in halved}
    kernels = {kernel for kernel, _ in modes}
    assert "spmm/direct" in kernels
    assert kernels & {f"spmm/{mode}" for mode in copying}
    for option in modes.values():
        check(family, case, option, features, target)
