"""Whole models for GPUs, every kernel in the emulator, beside onnxruntime."""

from functools import partial

import numpy as np
import onnxruntime
import pytest

from sparsec.backends.cuda.lower import lower
from sparsec.backends.cuda.planning import layer_of, layer_options
from sparsec.backends.registry import backend_of
from sparsec.compiler.pipeline import run_passes
from sparsec.cost.plan import CHOICE, choose
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.graph import reader
from sparsec.graph.compare import random_feeds
from sparsec.passes.context import Context
from sparsec.report.explain import explain
from sparsec.target import resolve
from tests.support.cuda import networks, walk
from tests.support.cuda.emulator import emulate

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
TARGET, HOPPER = resolve("cuda-sm80+sm86"), resolve("cuda-sm90")
MASK = np.array([[1] * 12 + [0] * 4])


def planned(model, wanted, precision="fp16", target=TARGET, kernel=""):
    """The rewritten graph; each layer takes the cheapest of the wanted formats that it can have."""
    graph = reader.load(model)
    run_passes(graph, Context(target))
    pick = partial(choose, machine=backend_of(target).calibration(target, 1).machine)
    for node in graph.graph:
        if layer_of(node) is not None:
            options = [each for each in layer_options(node, target, precision)[0] if each.kernel.startswith(kernel)]
            offered = {option.name for option in options}
            form = next(each for each in wanted if each in offered)
            CHOICE.set(node, pick(node.name, [option for option in options if option.name == form]))
    return graph


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_models_match_onnxruntime(build, precision):
    model = build()
    check(model, planned(model, ("nm 2:4", "dense"), precision), precision)


@pytest.mark.parametrize(("build", "precision"), [(networks.transformer, "bf16"), (networks.network, "fp16")])
def test_unstructured_models_match_onnxruntime(build, precision):
    model = build(prune=networks.unstructured)
    graph = planned(model, ("nm 2:4 + rest", "dense"), precision)
    chosen = {choice.winner.option.name for node in graph.graph if (choice := CHOICE.get(node))}
    assert "nm 2:4 + rest" in chosen
    check(model, graph, precision)


@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_models_by_warp_groups_match_onnxruntime(build):
    model = build()
    check(model, planned(model, ("nm 2:4", "dense"), target=HOPPER, kernel="wgmma"), target=HOPPER)


def check(model, graph, precision="fp16", target=TARGET):
    """The planned graph computes what onnxruntime does; returns the names of its kernels."""
    feeds = random_feeds(reader.load(model))
    feeds |= {"mask": MASK} if "mask" in feeds else {}
    lowered = lower(graph, target, precision)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for mine, reference in zip(walk.run(lowered, feeds), session.run(None, feeds), strict=True):
        assert mine.dtype == np.float32
        assert np.abs(mine - reference).max() <= HALF_PRECISIONS[precision] * np.abs(reference).max()
    return [name.name_hint for name in walk.scheduled(lowered).functions]


@pytest.mark.parametrize("fused", [False, True])
def test_attention_is_one_kernel_without_copies(fused):
    model = networks.transformer(fused=fused)
    kernels = check(model, planned(model, ("nm 2:4", "dense")), "fp16")
    assert sum("attention" in name for name in kernels) == 1
    assert not [name for name in kernels if "transpose" in name or "slice" in name or "softmax" in name]


def test_heads_that_the_kernel_does_not_take_run_step_by_step():
    model = networks.transformer(heads=16)
    kernels = check(model, planned(model, ("nm 2:4", "dense")), "fp16")
    assert not [name for name in kernels if "attention" in name]
    (note,) = explain(model, TARGET).outside
    assert "heads of 4 features" in note.text


@pytest.mark.parametrize("tokens", [4, 16])
@pytest.mark.parametrize("form", ["bitmap", "gaps 8", "nm 4:6", "nm 6:8", "nm 2:4 permuted", "nm 2:4 + rest"])
def test_every_format_runs(form, tokens):
    rng = np.random.default_rng(3)
    makers = {"nm 4:6": partial(drop, rng, 6), "nm 6:8": partial(drop, rng, 8), "nm 2:4 + rest": partial(few, rng)}
    weight = makers.get(form, partial(half, rng))(48, 768)
    graph = networks.Graph()
    graph("MatMul", "x", graph.constant(weight.T), name="y")
    model = graph.model({"x": (1, [tokens, 768])}, {"y": [tokens, 48]})
    lowered = lower(planned(model, (form,)), TARGET, "fp16")
    x = rng.standard_normal((tokens, 768)).astype(np.float32)
    (y,) = walk.run(lowered, {"x": x})
    np.testing.assert_allclose(y, x @ weight.T, atol=2e-2 * np.abs(x @ weight.T).max())


def half(rng, rows, columns):
    """A matrix whose first columns are full and whose others are empty."""
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    weight[:, columns // 2:] = 0
    return weight


def drop(rng, size, rows, columns):
    """A matrix without two of every `size` weights."""
    groups = rng.standard_normal((rows, columns // size, size)).astype(np.float32)
    np.put_along_axis(groups, np.argsort(rng.random(groups.shape), axis=2)[..., :2], 0, axis=2)
    return groups.reshape(rows, columns)


def few(rng, rows, columns):
    """A matrix of which a random quarter is left."""
    return (rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < 0.25)).astype(np.float32)
