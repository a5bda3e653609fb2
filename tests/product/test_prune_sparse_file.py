"""`sparsec prune` of files that have zeros already: none comes back, and what is there is not taken again."""

import numpy as np
import pytest
from onnx import numpy_helper

from sparsec.oneshot.criteria import CRITERIA
from sparsec.oneshot.distribution import DISTRIBUTIONS
from sparsec.oneshot.file import Method
from sparsec.oneshot.goal import Goal
from sparsec.oneshot.reach import to_goal
from sparsec.oneshot.weights import constants, layers
from sparsec.target import resolve
from tests.support.pruning import SAMPLES, convolutional, pruned, quiet


def thinned(share):
    """The small network with this share of zeros, more in some layers, groups and rows than in others."""
    proto, rng = convolutional(), np.random.default_rng(1)
    for layer in layers(proto)[0]:
        tensor = constants(proto.graph)[layer.weight]
        scores = layer.matrix(rng.random(layer.shape))
        scores *= rng.uniform(0.5, 1, (*scores.shape[:2], 1)) * rng.uniform(0.7, 1)
        values = numpy_helper.to_array(tensor) * (layer.stored(scores, np.float32) > np.quantile(scores, share))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return proto


def all_nonzeros(proto):
    return [numpy_helper.to_array(constants(proto.graph)[layer.weight]) != 0 for layer in layers(proto)[0]]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("quota", [*DISTRIBUTIONS, "sensitivity"])
def test_of_a_sparse_file_no_zero_comes_back_and_what_it_has_is_not_taken_again(criterion, quota):
    proto = thinned(0.8)
    had = 1 - np.mean(np.concatenate([each.reshape(-1) for each in all_nonzeros(proto)]))
    for asked in (0.4, float(had)):
        assert pruned(proto, SAMPLES, asked, criterion=criterion, distribution=quota).model == proto
    more = pruned(proto, SAMPLES, 0.9, criterion=criterion, distribution=quota)
    assert more.sparsity == pytest.approx(0.9, abs=3e-3)
    assert all((before | ~now).all() for before, now in zip(all_nonzeros(proto), all_nonzeros(more.model), strict=True))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("form", ["balanced", "2:4", "1:4", "4x1", "2x4"])
def test_of_a_sparse_file_no_zero_comes_back_in_any_pattern(criterion, form):
    proto = thinned(0.5)
    once = pruned(proto, SAMPLES, None if ":" in form else 0.7, criterion=criterion, pattern=form)
    again = pruned(once.model, SAMPLES, None if ":" in form else 0.6, criterion=criterion, pattern=form)
    assert all((before | ~now).all() for before, now in zip(all_nonzeros(proto), all_nonzeros(once.model), strict=True))
    assert again.model == once.model


@pytest.mark.parametrize("kind", ["bytes", "max_error"])
def test_a_goal_counts_the_zeros_that_a_file_has(kind):
    proto, value = thinned(0.8), {"bytes": 1e5, "max_error": 0.1}[kind]
    outcome, reached = to_goal(proto, SAMPLES, Goal(kind, value), Method(), resolve("cpu"), 1, quiet)
    assert reached.measured <= value
    assert all((before | ~now).all() for before, now in zip(
        all_nonzeros(proto), all_nonzeros(outcome.pruned.model), strict=True))
    assert (outcome.pruned.model == proto) is (kind == "bytes")
