"""What holds for every kernel family: its contract, on every instruction set, for every layer that it takes."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sparsec.cost.precisions import PRECISIONS, allows
from sparsec.cost.roofline import DEFAULT_MACHINE
from sparsec.formats import CODECS, FORMATS
from sparsec.graph.compare import relative_error
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.family import offers
from sparsec.kernels.packing import RECIPES
from sparsec.target import resolve
from tests.support.family_checks import SMALL, check
from tests.support.layers import CASES
from tests.support.targets import FEATURED, TARGETS, isa

EVERY = [pytest.param(family, index, id=f"{name}-{index}") for name, family in FAMILIES.items()
         for index in range(len(CASES[family.layer]))]
EVERYWHERE = [pytest.param(*case.values, target.values[0], id=f"{case.id}-{resolve(target.values[0]).name}",
                           marks=target.marks)
              for case in EVERY for target in (*TARGETS, *FEATURED)
              if target in TARGETS or case.values[0].precision != "fp32"]  # float32 needs no further instructions


@cache
def offered(family, index, target, precision=list(PRECISIONS)[-1]):
    """A case, the instruction set, and the family's options for the case or its reason to have none."""
    machine, features = replace(resolve(target), **SMALL), isa(target, 1 + index % 3)
    make, *arguments = CASES[family.layer][index]
    case = make(features.lanes, *arguments)
    return case, features, family.offers(case.layer, machine, features, precision)


@pytest.mark.parametrize(("family", "index", "target"), EVERYWHERE)
def test_kernels_compute_what_their_reference_says(family, index, target):
    case, features, options = offered(family, index, target)
    if isinstance(options, str):
        pytest.skip(options)
    check(family, case, options[np.random.default_rng(index).integers(len(options))], features, target)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_mode_of_a_family_computes_the_same(family):
    modes = {}
    for index in range(len(CASES[family.layer])):
        case, features, options = offered(family, index, "cpu")
        for option in () if isinstance(options, str) else options:
            modes.setdefault((option.format.split()[0], option.codec, option.kernel), (case, option, features))
    if not modes:
        pytest.skip(options)
    for case, option, features in modes.values():
        check(family, case, option, features, "cpu")


@pytest.mark.parametrize(("family", "index", "target"), EVERYWHERE)
def test_options_are_described_and_refusals_have_a_reason(family, index, target):
    case, _, options = offered(family, index, target)
    if isinstance(options, str):
        assert options.strip(" .") == options != ""
        return
    for option in options:
        assert option.family == family.name
        assert option.format.split()[0] in family.formats
        assert option.format.split()[0] in {name.split()[0] for name in FORMATS}
        assert option.codec in CODECS or case.layer.weight.dtype != np.float32
        assert option.is_dense == ("dense" in family.formats)
        assert hash(option.params) == hash(replace(option.params))
        assert option.nbytes >= 0
        assert 0 < DEFAULT_MACHINE.seconds(option.work) < 1
    kernels = [(option.format, option.kernel, option.detail) for option in options]
    assert len(set(kernels)) == len(kernels)


@pytest.mark.parametrize(("family", "index"), EVERY)
def test_artifacts_repeat_the_recipe(family, index):
    case, _, options = offered(family, index, "cpu-avx512")
    if isinstance(options, str):
        pytest.skip(options)
    for option in options[::7]:
        recipe = family.recipe(option.params)
        arrays = recipe.pack(case.layer.weight)
        assert all(array.ndim == 1 and array.size for array in arrays.values())
        if type(recipe) in RECIPES.values():
            recipe.check()
            fields = json.loads(json.dumps(vars(recipe)))
            again = RECIPES[type(recipe).__name__](**{
                name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
            assert again == recipe
            assert all(np.array_equal(array, same) for array, same in zip(
                arrays.values(), again.pack(case.layer.weight).values(), strict=True))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("family", "index"), EVERY)
def test_a_kernel_errs_no_more_than_its_precision_may(family, index, precision):
    case, _, options = offered(family, index, "cpu", precision)
    allowed = not family.precision or allows(precision, family.precision)
    if isinstance(options, str):
        assert allowed or family.precision in options
        return
    assert allowed
    exact = case.layer.weight.astype(np.float32) @ case.columns
    for option in options[::7]:
        product = family.reference(case.layer.weight, case.columns, option.params)
        limit = 0 if family.is_exact(option) else PRECISIONS[precision]
        assert relative_error(product, exact) <= limit


@pytest.mark.parametrize("layer", CASES)
def test_every_layer_has_a_dense_kernel_everywhere(layer):
    for name in ("cpu-generic", "cpu-avx2", "cpu-avx512"):
        for make, *arguments in CASES[layer]:
            features = isa(name, 2)
            options, refused = offers(FAMILIES, make(features.lanes, *arguments).layer, resolve(name), features, "fp32")
            assert any(option.keeps_ieee for option in options)
            assert {option.family for option in options} | set(refused) == {
                name for name, family in FAMILIES.items() if family.layer is layer}
