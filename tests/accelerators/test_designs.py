"""Every accelerator on small layers: right outputs, equal models, exact bytes, no time below the work's share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.backends.accelerators.activity import CAUSES
from sparsec.backends.accelerators.composed import Composed
from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.designs.spectral import Spectral
from sparsec.backends.accelerators.layer import Layer, Operator
from sparsec.backends.accelerators.simulate import simulate
from sparsec.errors import SimulationError, UsageError
from tests.support import nineteenth

EVERY = {**ACCELERATORS, "nineteenth": nineteenth.ACCELERATOR}
COMPOSED = {name: each for name, each in EVERY.items() if isinstance(each, Composed)}
SPATIAL = {name: each for name, each in COMPOSED.items() if not isinstance(each, Spectral)}
"""Those whose products are of weights and activations, not of their spectra."""
SMALL = {"units": 8, "cluster": 4, "chunk": 8, "filters": 4, "columns": 4, "accumulators": 40, "queue": 2, "window": 16,
         "partial_sums": 3, "weights": 12, "bandwidth": 4,
         "row_weights": 10, "rows": 4, "row_activations": 6}
"""Parameters at which small layers fill an accelerator."""


def smaller(accelerator):
    return {name: value for name, value in SMALL.items() if name in accelerator.parameters
            and accelerator.parameters[name].least <= value <= accelerator.parameters[name].most}


def layer(seed, operator, outputs, channels, kernel, size, **geometry):
    """A layer of random densities, none and all included."""
    rng = np.random.default_rng(seed)
    weight, x = ((rng.normal(size=shape) * (rng.random(shape) < rng.choice([0, 0.1, 0.5, 1]))).astype(np.float32)
                 for shape in ((outputs, channels, *kernel), (1, channels * geometry.get("groups", 1), *size)))
    return Layer("layer", operator, weight, np.maximum(x, 0), **geometry)


def two_of_four(seed):
    """A layer whose every four weights of a row, channels innermost, hold two at most."""
    made = layer(seed, Operator.CONV, 9, 10, (1, 3), (4, 6))
    rows = np.moveaxis(made.weight, 1, -1).reshape(9, -1)
    kept = np.random.default_rng(seed).random((9, 8, 4)).argsort(axis=2).reshape(9, 32)[:, :30] < 2
    return replace(made, weight=np.moveaxis((rows * kept).reshape(9, 1, 3, 10), -1, 1))


LAYERS = {
    "linear": lambda seed: layer(seed, Operator.FC, 19, 37, (1, 1), (1, 3)),
    "recurrent": lambda seed: layer(seed, Operator.RNN, 16, 20, (1, 1), (1, 4)),
    "3x3": lambda seed: layer(seed, Operator.CONV, 10, 6, (3, 3), (7, 5), pads=(1, 1, 1, 1)),
    "strided": lambda seed: layer(seed, Operator.CONV, 5, 3, (3, 5), (9, 8), strides=(2, 3), pads=(0, 1, 2, 1)),
    "dilated": lambda seed: layer(seed, Operator.CONV, 4, 5, (3, 2), (7, 7), dilations=(2, 1)),
    "2:4": two_of_four,
    "1x1": lambda seed: layer(seed, Operator.CONV, 33, 21, (1, 1), (3, 4)),
}


def runnable(accelerators):
    return [pytest.param(accelerator, make, id=f"{accelerator.name}-{name}")
            for accelerator in accelerators.values() for name, make in LAYERS.items()
            if accelerator.runs(make(0).operator)]


@pytest.mark.parametrize(("accelerator", "make"), runnable(EVERY))
def test_step_by_step_gives_the_outputs_and_the_cycles_of_the_fast_model(accelerator, make):
    for seed, given_ in enumerate(({}, smaller(accelerator), smaller(accelerator))):
        config, each = accelerator.configure(given_), make(seed)
        execution, activity = accelerator.execute(each, config), accelerator.measure(each, config)
        assert np.array_equal(execution.outputs, execution.reference)
        assert (execution.activity.cycles, execution.activity.spent) == (activity.cycles, activity.spent)


@pytest.mark.parametrize(("accelerator", "make"), runnable(EVERY))
def test_cycles_are_accounted_for_and_never_below_the_work(accelerator, make):
    for seed in range(8):
        config, each = accelerator.configure(smaller(accelerator)), make(seed)
        activity = accelerator.measure(each, config)
        assert set(activity.spent) <= set(CAUSES)
        assert min(activity.spent.values(), default=0) >= 0
        assert sum(activity.spent.values()) == accelerator.lanes(config) * activity.cycles
        assert activity.cycles * accelerator.lanes(config) >= activity.spent["useful"]


@pytest.mark.parametrize(("accelerator", "make"), runnable(COMPOSED))
def test_bytes_are_those_of_the_encoder(accelerator, make):
    config = accelerator.configure({})
    for seed in range(3):
        each = make(seed)
        (group,) = each.operands(config["weight_bits"], config["activation_bits"])
        w, x = accelerator.fibres(group, config)
        footprint = accelerator.footprint(each, config)
        assert footprint.weights == accelerator.weights.encode(w, config["weight_bits"]).bits
        assert footprint.activations == accelerator.activations.encode(x, config["activation_bits"]).bits


@pytest.mark.parametrize("accelerator", SPATIAL.values(), ids=SPATIAL)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_useful_products_are_those_of_two_non_zeros_in_groups_too(accelerator, seed):
    grouped = layer(seed, Operator.CONV, 6, 4, (3, 3), (6, 6), groups=3)
    if not accelerator.runs(Operator.CONV):
        grouped = layer(seed, Operator.RNN, 6, 4, (1, 1), (1, 6), groups=3)
    config = accelerator.configure({})
    bits = config["weight_bits"], config["activation_bits"]
    expected = sum(int(((group.filters != 0).astype(int) @ (group.vectors != 0).T).sum())
                   for group in grouped.operands(*bits))
    assert accelerator.measure(grouped, config).spent["useful"] == expected


def test_wrong_outputs_and_wrong_times_are_noticed():
    right = nineteenth.ACCELERATOR
    each = LAYERS["linear"](3)

    def lies(change):
        def events(group, config):
            yield from (change(event) for event in right.events(group, config))
        return replace(right, events=events)

    with pytest.raises(SimulationError, match="wrong outputs"):
        simulate([each], lies(lambda event: event._replace(products=event.products + 1)))
    with pytest.raises(SimulationError, match="disagree"):
        simulate([each], lies(lambda event: event._replace(cycles=event.cycles + 1)))


@pytest.mark.parametrize("accelerator", EVERY.values(), ids=EVERY)
def test_impossible_configurations_are_refused_by_name(accelerator):
    with pytest.raises(UsageError, match=f"{accelerator.name}: units is 0"):
        accelerator.configure({"units": 0})
    with pytest.raises(UsageError, match=f"{accelerator.name} has no parameter 'wings'"):
        accelerator.configure({"wings": 2})


def test_what_must_divide_another_does():
    with pytest.raises(UsageError, match="sparten: cluster is 32, which must divide units, 8; change either"):
        ACCELERATORS["sparten"].configure({"units": 8})


@pytest.mark.parametrize("accelerator", ACCELERATORS.values(), ids=ACCELERATORS)
def test_descriptions_say_where_they_are_from_and_what_they_assume(accelerator):
    assert accelerator.assumptions
    assert accelerator.sources
    assert {"units", "multipliers", "clock_mhz", "weight_bits", "activation_bits"} <= set(accelerator.parameters)


def test_what_an_accelerator_does_not_run_is_listed_with_its_share():
    convolution, recurrent = LAYERS["3x3"](1), LAYERS["recurrent"](2)
    result = simulate([convolution, recurrent], nineteenth.ACCELERATOR)
    assert [bool(each.refused) for each in result.layers] == [False, True]
    assert result.refused_share == recurrent.dense_macs / (recurrent.dense_macs + convolution.dense_macs)


def test_a_further_accelerator_takes_a_short_file():
    assert len(Path(nineteenth.__file__).read_text().splitlines()) < 80
