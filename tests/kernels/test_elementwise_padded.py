"""Elementwise operators equal numpy between any two padded layouts, and use no padding."""

import numpy as np
import pytest

from sparsec.graph.operators.epilogue import ACTIVATIONS
from sparsec.kernels.cpu.images import elementwise_padded
from sparsec.kernels.cpu.images.elementwise_padded import OPERATIONS, ElementwiseParams, ScaleParams
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.padded import assert_same, flat, images_like, padded, run_guarded
from tests.support.targets import TARGETS, isa

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 3, 32), (1, 2, 4, 19)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_binary(shape, operation, target):
    lanes = isa(target).lanes
    sources = padded(shape, 1, lanes, clean=False), padded(shape, 0, lanes, extra=1)
    params = ElementwiseParams(sources, padded(shape, 2, lanes), operation, Epilogue("clip", -0.5, 0.5))
    inputs = [flat(images_like(source, seed), source) for seed, source in enumerate(sources)]
    func = elementwise_padded.build(params, isa(target, threads=2))
    result = run_guarded(func, target, *inputs, out=params.target.size)
    assert_same(result, elementwise_padded.reference(inputs, params), 1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation):
    source, goal = (padded((1, 3, 5, 9), pad, 4, clean=False) for pad in (1, 0))
    params = ElementwiseParams((source,), goal, epilogue=Epilogue(activation, 0.2, 0.6))
    x = flat(images_like(source), source)
    result = run_guarded(elementwise_padded.build(params, isa("cpu-generic")), "cpu-generic", x, out=params.target.size)
    assert_same(result, elementwise_padded.reference([x], params), 1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scale(shape, per_image, target):
    lanes, rng = isa(target).lanes, np.random.default_rng(0)
    params = ScaleParams(padded(shape, 0, lanes, clean=False), padded(shape, 1, lanes), per_image, Epilogue("relu"))
    scale, shift = rng.standard_normal((2, shape[1] * (shape[0] if per_image else 1))).astype(np.float32)
    x = flat(images_like(params.source), params.source)
    func = elementwise_padded.build_scale(params, isa(target))
    result = run_guarded(func, target, scale, shift, x, out=params.target.size)
    assert_same(result, elementwise_padded.scale_reference(scale, shift, x, params), 1e-6)
