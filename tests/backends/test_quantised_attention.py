"""Attention on codes of tokens in tiles: its kernel gives the reference's codes, one step apart at most."""

import numpy as np
import pytest

from sparsec.graph.evaluate import evaluate
from sparsec.graph.layout import Tiled, layout_of
from sparsec.passes import layout
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.integers import example
from tests.support.targets import TARGETS
from tests.support.vm import compile_and_run

APART = 0.002
"""The share of codes that rounding a softmax of another order of sums may move."""


@pytest.mark.parametrize("target", [*TARGETS, "cpu"])
def test_attention_on_codes_equals_its_reference(target):
    tiled = 0
    for seed in range(4):
        model, feeds = example("QAttention", seed)
        expected, = evaluate(model, feeds)
        layout.run(model, Context(target=resolve(target)))
        tiled += any(isinstance(layout_of(value), Tiled) for node in model.graph for value in node.outputs)
        actual, = compile_and_run(model, feeds, target)
        apart = np.abs(actual.astype(int) - expected.astype(int))
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= max(1, APART * apart.size)
    assert tiled
