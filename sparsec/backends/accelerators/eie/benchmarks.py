"""The paper's nine layers (Han et al., ISCA 2016, tables III and IV), with random masks of their densities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.eie.layer import Layer
from sparsec.backends.accelerators.fixed_point import FixedPoint


@dataclass(frozen=True)
class Benchmark:
    """A layer of table III and its times of table IV, at 64 PEs and 800 MHz."""

    name: str
    inputs: int
    outputs: int
    weight_density: float
    activation_density: float
    theory_us: float
    actual_us: float


BENCHMARKS = (
    Benchmark("Alex-6", 9216, 4096, 0.09, 0.351, 28.1, 30.3),
    Benchmark("Alex-7", 4096, 4096, 0.09, 0.353, 11.7, 12.2),
    Benchmark("Alex-8", 4096, 1000, 0.25, 0.375, 8.9, 9.9),
    Benchmark("VGG-6", 25088, 4096, 0.04, 0.183, 28.1, 34.4),
    Benchmark("VGG-7", 4096, 4096, 0.04, 0.375, 7.9, 8.7),
    Benchmark("VGG-8", 4096, 1000, 0.23, 0.411, 7.3, 8.4),
    Benchmark("NT-We", 4096, 600, 0.10, 1.0, 5.2, 8.0),
    Benchmark("NT-Wd", 600, 8791, 0.11, 1.0, 13.0, 13.9),
    Benchmark("NT-LSTM", 1201, 2400, 0.10, 1.0, 6.5, 7.5),
)


def random_layers(seed: int) -> tuple[dict[str, Layer], dict[str, NDArray[np.bool_]]]:
    """All nine, and their activations."""
    drawn = {benchmark.name: random_layer(benchmark, seed) for benchmark in BENCHMARKS}
    return {name: layer for name, (layer, _) in drawn.items()}, {name: active for name, (_, active) in drawn.items()}


def random_layer(benchmark: Benchmark, seed: int) -> tuple[Layer, NDArray[np.bool_]]:
    """The layer, with all weights equal, and one vector's non-zero activations (1, inputs)."""
    rng = np.random.default_rng(seed)
    active = rng.random((1, benchmark.inputs)) < benchmark.activation_density
    mask = rng.random((benchmark.outputs, benchmark.inputs), np.float32) < benchmark.weight_density
    number = FixedPoint(16, 15)
    layer = Layer(benchmark.name, "fully connected", mask.view(np.uint8), np.eye(1, 16, 1, dtype=np.float32)[0], 0.0,
                  number, number, number, relu=True)
    return layer, active
