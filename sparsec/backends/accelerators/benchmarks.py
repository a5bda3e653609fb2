"""Drawing the layers that the papers compare on, and measuring accelerators on them. EIE's own are in `eie/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.layer import Layer, Operator
from sparsec.backends.accelerators.shapes import Shape


def cycles(name: str, layers: Sequence[Layer], **given: int) -> int:
    """Cycles of an accelerator on layers."""
    accelerator = ACCELERATORS[name]
    config = accelerator.configure(given)
    return sum(accelerator.measure(layer, config).cycles for layer in layers)


def microjoules(name: str, layers: Sequence[Layer]) -> float:
    """Energy of an accelerator on layers, without DRAM's."""
    accelerator = ACCELERATORS[name]
    config = accelerator.configure({})
    return 1e-6 * sum(pj for layer in layers for part, pj in accelerator.energy(
        accelerator.measure(layer, config), accelerator.footprint(layer, config), config).items() if part != "DRAM")


def draw(shapes: Sequence[Shape], seed: int) -> list[Layer]:
    """Layers with their masks."""
    rng = np.random.default_rng(seed)
    return [shape.draw(rng) for shape in shapes]


def blocked(shape: Shape, rng: np.random.Generator, size: int = 16) -> Layer:
    """A layer pruned in blocks of that many outputs, as Cambricon-S prunes; a rest of outputs is pruned singly."""
    layer = shape.draw(rng)
    whole = shape.outputs // size
    mask = np.repeat(rng.random((whole, *layer.weight.shape[1:]), np.float32) < shape.weights, size, axis=0)
    weight = np.concatenate((mask.astype(np.float32), layer.weight[whole * size :]))
    return replace(layer, weight=weight)


def gates(density: float, rng: np.random.Generator, *, balanced: bool, elements: int = 32) -> list[Layer]:
    """ESE's LSTM: of four gates the matrices of 153 inputs and of 512 projected states, and the projection of 1,024.

    Each of so many elements has each so many-th row; balanced, each keeps equally many weights.
    """
    layers = []
    for name, outputs, inputs in (*[("input", 1024, 153), ("state", 1024, 512)] * 4, ("projection", 512, 1024)):
        weight = np.zeros((outputs, inputs), np.float32)
        for element in range(elements):
            part = weight[element::elements]
            kept = rng.random(part.shape, np.float32) < density
            if balanced:
                kept = rng.permutation(part.size).reshape(part.shape) < round(density * part.size)
            weight[element::elements] = kept
        layers.append(Layer(name, Operator.LSTM, weight[:, :, None, None], np.ones((1, inputs, 1, 1), np.float32)))
    return layers


def recurrent(outputs: int, inputs: int, weights: float, activations: float, rng: np.random.Generator) -> Layer:
    """Two steps of a recurrent layer."""
    w = rng.random((outputs, inputs, 1, 1), np.float32) < weights
    x = rng.random((1, inputs, 1, 2), np.float32) < activations
    return Layer("recurrent", Operator.RNN, w.astype(np.float32), x.astype(np.float32))


def gemm(rows: int, columns: int, inner: int, weights: float, activations: float, rng: np.random.Generator) -> Layer:
    """A product of matrices as a linear layer."""
    w = rng.random((rows, inner, 1, 1), np.float32) < weights
    x = rng.random((1, inner, 1, columns), np.float32) < activations
    return Layer(f"{rows} x {inner} x {columns}", Operator.FC, w.astype(np.float32), x.astype(np.float32))
