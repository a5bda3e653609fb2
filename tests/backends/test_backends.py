"""Backends: what one says that it does is what it overrides, and precisions are ordered."""

import pytest

from sparsec.backends.base import GOALS, Backend
from sparsec.backends.registry import BACKENDS
from sparsec.cost.precisions import GPU_PRECISIONS, PRECISIONS, allows

METHODS = {"explains": ("options", "offers"), "sized": ("node_seconds",), "profiles": ("profile",),
           "projects": ("project",),
           "device": ("missing", "memory", "check", "replay", "reject_needs")}
"""By the flag the methods that have no meaning without it, and are needed with it."""


def overrides(backend, method):
    return getattr(type(backend), method) is not getattr(Backend, method)


@pytest.mark.parametrize("flag", METHODS)
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_flag_stands_for_the_methods_that_are_overridden(backend, flag):
    said = bool(getattr(backend, flag))
    assert {method: overrides(backend, method) for method in METHODS[flag]} == dict.fromkeys(METHODS[flag], said)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_what_divides_batches_prices_whole_graphs(backend):
    assert overrides(backend, "node_seconds") >= backend.divides


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_what_times_kernels_prepares_them_and_what_does_so_elsewhere_does_so_here(backend):
    assert overrides(backend, "measurer") == overrides(backend, "prepare") >= backend.measures_elsewhere


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_backend_is_entered_by_its_kind_with_precisions_and_goals_that_there_are(backend):
    assert BACKENDS[backend.kind] is backend
    assert set(backend.precisions) <= PRECISIONS.keys() | GPU_PRECISIONS.keys()
    assert set(backend.goals) <= set(GOALS)
    assert bool(backend.device) >= bool(backend.provider)
    assert backend.reject_needs({}) is None
    assert "tape" in backend.reject_needs({"tape": ("8 mm",)})


@pytest.mark.parametrize("precision", PRECISIONS | GPU_PRECISIONS)
def test_a_precision_allows_itself_and_float32_and_no_two_each_other(precision):
    assert allows(precision, precision)
    assert allows(precision, "fp32")
    assert not any(allows(precision, other) and allows(other, precision)
                   for other in PRECISIONS | GPU_PRECISIONS if other != precision)
