"""Goals of `sparsec prune model.onnx`: met, as measured anew; predicted by the cost model; with the least loss."""

import os

import numpy as np
import pytest

from sparsec.errors import PruningError, UsageError
from sparsec.models.dataset import digits
from sparsec.oneshot import costs, dense, energy, samples
from sparsec.oneshot.advice import advise, best
from sparsec.oneshot.distribution.optimal import Levels, cheapest, least_loss
from sparsec.oneshot.file import Method, shared_out, to_sparsity
from sparsec.oneshot.goal import Goal
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.reach import reach, to_goal
from sparsec.oneshot.search import Search
from sparsec.report.curves import SPARSITIES
from sparsec.target import resolve
from tests.support.texts import model

CPU, CUDA = resolve("cpu"), resolve("cuda-sm80")
METHOD = Method("magnitude")
LONG = "SPARSEC_LONG" in os.environ


def quiet(_what, _share):
    pass


def perceptron(hidden):
    """A network of two hidden layers, so many units in the first, with random weights, and digits."""
    rng, sizes = np.random.default_rng(0), {"a": (784, hidden), "b": (hidden, 100), "c": (100, 10)}
    text = f"""g (float[N,784] x) => (float[N,10] y) <float[784,{hidden}] a, float[{hidden},100] b, float[100,10] c> {{
        p = MatMul(x, a) q = Relu(p) r = MatMul(q, b) s = Relu(r) y = MatMul(s, c) }}"""
    weights = {name: rng.standard_normal(size, np.float32) * np.float32((2 / size[0]) ** 0.5)
               for name, size in sizes.items()}
    return model(text, **weights), {"x": digits()[0][:64]}


@pytest.fixture(scope="module")
def lenet():
    return perceptron(300)


def facts(proto, arrays, form="unstructured"):
    """The weights, and the dense model with what every layer can bear."""
    batches, known = samples.batches(proto, arrays), pattern(form)
    return batches, dense.run(proto, batches, "magnitude", known, (), costs.sparsities(known), quiet)


def times(proto, weights, form="unstructured", target=CPU, rows=1):
    return costs.microseconds(proto, weights, {"x": (rows, 784)}, target, 1, pattern(form))


@pytest.mark.parametrize(("goal", "value"), [("bytes", 250e3), ("energy", 0.5), ("max_error", 0.2)])
def test_a_goal_is_met_and_measured_so_anew(lenet, goal, value):
    proto, arrays = lenet
    batches, found = facts(proto, arrays)
    if goal == "energy":
        value *= energy.microjoules(proto, found.weights, batches)
    outcome, reached = to_goal(proto, arrays, Goal(goal, value), METHOD, CPU, 1, quiet)
    assert reached.measured <= reached.wanted * 1.03
    pruned = outcome.pruned.model
    if goal == "max_error":
        assert outcome.pruned.error == reached.measured >= 0.8 * value
    else:
        measured = {"bytes": costs.measured_bytes, "energy": lambda *parts: energy.microjoules(*parts, batches)}[goal]
        assert measured(pruned, found.weights) == reached.measured >= 0.9 * value


@pytest.mark.parametrize(("kind", "value"), [*[("speedup", 2.0)] * LONG, ("latency", 0.5)])
def test_a_time_is_met_in_turns_with_the_dense_model(kind, value):
    proto, arrays = perceptron(600)
    search = Search.of(proto, arrays, kind, METHOD, CPU, 1, quiet)
    goal = Goal(kind, value if kind == "speedup" else value * search.clock.dense_us)
    outcome, reached = reach(search, goal)
    assert reached.measured <= reached.wanted * 1.03
    assert (reached.measured, search.clock.dense_us) == (reached.pruned_us, reached.dense_us)  # one dense time is told
    prices = times(proto, search.weights)
    predicted = sum(np.interp(reached.sparsities[name], SPARSITIES, prices[name]) for name in prices)
    assert reached.predicted == pytest.approx(predicted)
    wanted = search.wanted(goal)  # others may use the machine, but hardly in all of five times nine turns
    assert any(search.clock.times(outcome.pruned.model).share < 1.2 * wanted for _ in range(5))


@pytest.mark.parametrize("distribution", ["uniform", "erk", "global", "lamp"])
def test_no_distribution_loses_less_at_the_same_predicted_time(lenet, distribution):
    proto, arrays = lenet
    _, found = facts(proto, arrays)
    prices, grid = times(proto, found.weights), np.arange(0, 0.951, 0.01)
    levels = [Levels(*(np.interp(grid, SPARSITIES, each) for each in (
        prices[weight.name], np.square(found.sensitivity[weight.name])))) for weight in found.weights]
    for sparsity in (0.5, 0.8, 0.9):
        shares = shared_out(proto, found, distribution, sparsity)
        own = [round(min(shares[weight.name], 0.95) * 100) for weight in found.weights]
        cost, loss = (sum(getattr(each, kind)[level] for each, level in zip(levels, own, strict=True))
                      for kind in ("cost", "loss"))
        chosen = least_loss(levels, max(cost * 1.001, cheapest(levels)))
        assert sum(each.loss[level] for each, level in zip(levels, chosen, strict=True)) <= loss * 1.001


def test_patterns_cost_what_the_targets_kernels_give(lenet):
    proto, _ = lenet
    weights, _ = dense.weights(proto, pattern("2:4"), ())
    at = SPARSITIES.index(0.8)
    blocks, anywhere = (times(proto, weights, form, rows=64)["p"][at] for form in ("8x1", "unstructured"))
    assert blocks < anywhere
    prices = times(proto, weights, "2:4", CUDA, 512)
    assert all(len(each) == 2 for each in prices.values())
    assert prices["p"][1] < times(proto, weights, "unstructured", CUDA, 512)["p"][SPARSITIES.index(0.5)]


def test_a_pattern_of_fixed_sparsity_goes_where_it_pays(lenet):
    proto, arrays = lenet
    whole = costs.measured_bytes(proto, dense.weights(proto, pattern("2:4"), ())[0])
    outcome, reached = to_goal(proto, arrays, Goal("bytes", 0.7 * whole), Method("magnitude", "2:4"), CPU, 1, quiet)
    assert reached.measured <= 0.7 * whole * 1.03
    assert {round(share, 3) for share in reached.sparsities.values()} <= {0.0, 0.5}
    assert 0.4 < outcome.pruned.sparsity <= 0.5


def test_balanced_rows_are_equally_long(lenet):
    proto, arrays = lenet
    outcome = to_sparsity(proto, arrays, 0.8, Method("obs", "balanced", "uniform"), quiet)
    tensors = {each.name: each for each in outcome.pruned.model.graph.initializer}
    for name in "abc":
        counts = np.count_nonzero(np.frombuffer(tensors[name].raw_data, np.float32).reshape(tensors[name].dims), 0)
        assert len(set(counts)) == 1
        assert counts[0] == pytest.approx(0.2 * tensors[name].dims[0], abs=0.05 * tensors[name].dims[0])


@pytest.mark.parametrize(("goal", "error", "message"), [
    *[(Goal("latency", 0.01), PruningError, r"out of reach: .* us, with an error of .* as dense")] * LONG,
    (Goal("bytes", 10), PruningError, r"bytes 10 is out of reach: .* bytes, with an error of 0\.\d"),
    (Goal("energy", 1e-6), PruningError, r"uJ, with an error"),
])  # fmt: skip
def test_a_goal_out_of_reach_says_what_can_be_reached(lenet, goal, error, message):
    with pytest.raises(error, match=message):
        to_goal(*lenet, goal, METHOD, CPU, 1, quiet)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_goal_is_a_positive_number(value):
    with pytest.raises(UsageError, match="above 0"):
        Goal("latency", value)


@pytest.mark.parametrize(("target", "best_at_half", "rows"), [(CPU, "16x1", 64), (CUDA, "2:4", 4096)])
def test_advice_knows_what_pays_on_a_target(target, best_at_half, rows):
    proto = model(f"""g (float[{rows},1024] x) => (float[{rows},1024] y) <float[1024,1024] a, float[1024,1024] b> {{
        p = MatMul(x, a) q = Relu(p) y = MatMul(q, b) }}""")
    _, found = advise(proto, ("unstructured", "16x1", "2:4"), {}, target, 1, (), quiet)
    by_name = {each.pattern: each for each in found}
    assert best(found)[0.5].pattern == best_at_half
    assert by_name[best_at_half].pays
    assert by_name[best_at_half].layers == by_name[best_at_half].of == 2
    assert (by_name["unstructured"].speedups[0.5] > 1.1) is (target is CPU)


def test_a_pattern_that_pays_nowhere_is_refused_before_anything_is_timed():
    proto = model("""g (float[4096,1024] x) => (float[4096,1024] y) <float[1024,1024] a> { y = MatMul(x, a) }""")
    arrays = {"x": np.random.default_rng(0).standard_normal((8 * 4096, 1024), np.float32)}
    with pytest.raises(PruningError, match="'1x4' pays in no layer on cuda-sm80"):
        to_goal(proto, arrays, Goal("speedup", 1.5), Method("magnitude", "1x4"), CUDA, 1, quiet)


@pytest.mark.parametrize("kind", ["latency", "speedup", "bytes", "energy"])
def test_a_file_that_meets_a_goal_stays_as_it_is(lenet, kind):
    proto, arrays = lenet
    value = {"latency": 1e6, "speedup": 1.0, "bytes": 1e9, "energy": 1e9}[kind]
    outcome, reached = to_goal(proto, arrays, Goal(kind, value), METHOD, CPU, 1, quiet)
    assert reached.as_it_was
    assert outcome.pruned.model == proto
    assert outcome.pruned.error == outcome.pruned.sparsity == 0
    assert reached.measured <= reached.wanted
