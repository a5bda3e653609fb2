"""Differences are relative to the largest expected magnitude and exact about NaN and infinity; random feeds fit."""

import numpy as np
import pytest

from sparsec.graph.compare import compare, random_feeds, relative_error
from sparsec.graph.reader import load
from tests.support.texts import model

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(("actual", "expected", "error"), [
    ([1.0, 2.0], [1.0, 2.0], 0),
    ([1.0, 2.5], [1.0, 2.0], 0.25),
    ([0.0, 0.5], [0.0, 0.0], 0.5),
    ([1.0], [1.0, 1.0], INF),
    ([NAN, 2.0], [NAN, 2.0], 0),
    ([1.0, 2.0], [NAN, 2.0], INF),
    ([NAN, 2.0], [1.0, 2.0], INF),
    ([INF, 1.5], [INF, 1.0], 0.5),
    ([INF, 1.0], [-INF, 1.0], INF),
    ([True, False], [True, True], 1),
    ([], [], 0),
])
def test_relative_error(actual, expected, error):
    assert relative_error(np.array(actual), np.array(expected)) == error


def test_differences_name_their_outputs():
    a, b = compare(["a", "b"], [np.ones(2), np.ones(2)], [np.ones(2), np.zeros(2)])
    assert (a.output, a.relative_error, b.output, b.relative_error) == ("a", 0, "b", 1)


def test_random_feeds_fit_the_inputs_and_repeat_with_the_seed():
    graph = load(model(
        "g (int64[2,50] ids, int64[2,50] attention_mask, float16[3] h, bool[40] b, float[30] x) => (float[2,50,4] y)"
        "<float[7,4] table> { y = Gather(table, ids) }"))
    feeds, again, other = random_feeds(graph), random_feeds(graph), random_feeds(graph, seed=1)
    assert {name: (array.dtype.name, array.shape) for name, array in feeds.items()} == {
        "ids": ("int64", (2, 50)), "attention_mask": ("int64", (2, 50)), "h": ("float16", (3,)), "b": ("bool", (40,)),
        "x": ("float32", (30,))}
    assert set(feeds["ids"].ravel()) == set(range(7))
    assert set(feeds["attention_mask"].ravel()) == {1}
    assert set(feeds["b"]) == {False, True}
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    assert not np.array_equal(feeds["x"], other["x"])
