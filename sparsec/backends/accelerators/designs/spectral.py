"""SPEC2 (Niu et al. 2019) and the spectral CNN accelerator (Niu et al. 2020): convolutions as products of spectra.

Tiles of the plane and kernels are transformed; every non-zero coefficient of a kernel, kept with its coordinates, is a
complex product. Outputs overlap nowhere (overlap-save); strides become channels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, Fibres
from sparsec.backends.accelerators.description import Execution, Footprint, Parameter
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.fixed_point import fitting
from sparsec.backends.accelerators.layer import Layer, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, shares
from sparsec.backends.accelerators.representation import BlockIndex, Dense
from sparsec.backends.accelerators.timing import Configuration, barrier

Spectra = NDArray[np.complex128]
SMALL = 1e-9
"""Coefficients below this share of the largest possible are zero but for rounding."""
HALVES = BlockIndex(block=2)
"""A coefficient is a block of its real and its imaginary part."""
KERNELS = 1 << 13
"""Kernels whose coefficients are counted at once."""


def size_of(layer: Operands, config: Configuration) -> int:
    """Length of a transform: the configured one, or as long as a larger kernel needs."""
    size = config["transforms"]
    while size < max(layer.weight.shape[2:]) * 2 - 1:
        size *= 2
    return size


def largest(layer: Operands) -> float:
    """What no coefficient exceeds: the largest sum of a kernel's magnitudes."""
    return float(np.abs(layer.weight).sum(axis=(2, 3)).max(initial=0))


@functools.cache
def transform(high: int, wide: int, size: int) -> Spectra:
    """(high x wide, coefficients) by which a kernel's taps are multiplied: half a spectrum, since weights are real."""
    taps = np.eye(high * wide).reshape(-1, high, wide)
    return np.conj(np.fft.rfft2(taps, (size, size))).reshape(high * wide, -1)


def kernels(layer: Operands, size: int) -> Spectra:
    """(outputs, channels, coefficients) spectra."""
    outputs, channels, high, wide = layer.weight.shape
    spectra: Spectra = layer.weight.reshape(outputs, channels, -1) @ transform(high, wide, size)
    spectra[np.abs(spectra) <= SMALL * largest(layer)] = 0
    return spectra


def some_kernels(layer: Operands, size: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """The outputs of kernels with a weight and (kernels, real and imaginary parts, coefficients), some at once."""
    outputs, channels, high, wide = layer.weight.shape
    whole = transform(high, wide, size)
    halves = np.concatenate((whole.real, whole.imag), axis=1)
    taps = layer.weight.reshape(outputs * channels, -1)
    some = np.flatnonzero(taps.any(axis=1))
    for first in range(0, len(some), KERNELS):
        part = some[first : first + KERNELS]
        yield part // channels, (taps[part].astype(np.float64) @ halves).reshape(len(part), 2, -1)


def count_kept(layer: Operands, size: int) -> NDArray[np.int64]:
    """(outputs,) coefficients that are not zero, none of which a kernel of one tap has: its transform is its weight."""
    outputs, _, high, wide = layer.weight.shape
    if high * wide == 1:
        return np.asarray(np.count_nonzero(layer.weight, axis=(1, 2, 3)) * (size * (size // 2 + 1)), np.int64)
    kept, least = np.zeros(outputs, np.int64), (SMALL * largest(layer)) ** 2
    for output, spectra in some_kernels(layer, size):
        np.add.at(kept, output, np.count_nonzero(np.square(spectra).sum(axis=1) > least, axis=1))
    return kept


def count_stored(layer: Operands, size: int, bits: int) -> int:
    """Coefficients of which a half of so many bits is not zero."""
    if layer.weight[0, 0].size == 1:
        return int(np.count_nonzero(layer.weight)) * size * (size // 2 + 1)
    half = 0.5 / 2.0 ** fitting(largest(layer), bits).fraction
    count = 0
    for _, spectra in some_kernels(layer, size):
        values = spectra.astype(np.float32)
        count += int(np.count_nonzero(((values >= half) | (values < -half)).any(axis=1)))
    return count


def grid(layer: Operands, size: int) -> tuple[int, int, int]:
    """Tiles down and across, and the outputs of a tile's side."""
    step = size - max(layer.weight.shape[2:]) + 1
    rows, columns = layer.windows.shape[1:3]
    return -(-rows // step), -(-columns // step), step


def tiles(layer: Operands, size: int) -> tuple[NDArray[np.int32], int, int, int]:
    """(images, tiles down, tiles across, channels, size, size), the outputs of a tile's side, and the plane's sides."""
    (down, across, step), (rows, columns) = grid(layer, size), layer.windows.shape[1:3]
    top, left, bottom, right = layer.pads
    x = np.pad(layer.x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    x = np.pad(x, ((0, 0), (0, 0), (0, max(0, (down - 1) * step + size - x.shape[2])),
                   (0, max(0, (across - 1) * step + size - x.shape[3]))))
    cut = np.stack([np.stack([x[:, :, i * step : i * step + size, j * step : j * step + size] for j in range(across)],
                             axis=1) for i in range(down)], axis=1)
    return cut, step, rows, columns


def fibres(layer: Operands, config: Configuration) -> Fibres:
    """Of weights a kernel's coefficients, real and imaginary parts side by side, of activations the rows."""
    plain = layer.unstrided()
    size, number = size_of(plain, config), fitting(largest(plain), config["weight_bits"])
    spectra = kernels(plain, size)
    halves = np.stack((spectra.real, spectra.imag), axis=3).reshape(-1, 2 * spectra.shape[2])
    return number.quantize(halves.astype(np.float32)), layer.x.reshape(-1, layer.x.shape[3])


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a round of outputs of a tile: a unit takes a cycle a coefficient of its output's kernels."""
    plain = layer.unstrided()
    size = size_of(plain, config)
    kept, (down, across, step) = count_kept(plain, size), grid(plain, size)
    count = len(plain.x) * down * across
    table = shares(kept[None], config["units"])
    products = int(kept.sum()) * count
    return Work(table, products, times=np.full(len(table), count), accesses={
        "weights": products, "activations": plain.x.shape[1] * count * size * (size // 2 + 1),
        "outputs": len(layer.weight) * count * step * step})


def events(_layer: Operands, _config: Configuration) -> Iterator[Event]:
    """None: products are added as spectra, see `Spectral.execute`."""
    return iter(())


@dataclass(frozen=True, kw_only=True)
class Spectral(Composed):
    """An accelerator whose products are those of spectra."""

    def footprint(self, layer: Layer, config: Configuration) -> Footprint:
        """That of `fibres`, whose coefficients are counted instead of stored."""
        weights = 0
        for group in layer.operands(config["weight_bits"], config["activation_bits"]):
            plain = group.unstrided()
            size, (outputs, channels) = size_of(plain, config), plain.weight.shape[:2]
            weights += HALVES.size(count_stored(plain, size, config["weight_bits"]),
                                   (outputs * channels, size * (size // 2 + 1)), config["weight_bits"])
        return Footprint(weights, layer.x.size * config["activation_bits"])

    def execute(self, layer: Layer, config: Configuration) -> Execution:
        """Tile by tile and output by output, over the coefficients that are kept; sums are transformed back."""
        (group,) = layer.operands(config["weight_bits"], config["activation_bits"])
        plain = group.unstrided()
        size = size_of(plain, config)
        spectra, (cut, step, rows, columns) = kernels(plain, size), tiles(plain, size)
        result = np.zeros((len(spectra), len(plain.x), rows, columns), np.int64)
        busy = np.zeros((-(-len(spectra) // config["units"]), int(np.prod(cut.shape[:3])), config["units"]), np.int64)
        for place, (image, i, j) in enumerate(np.ndindex(*cut.shape[:3])):
            seen = np.fft.rfft2(cut[image, i, j]).reshape(cut.shape[3], -1)
            for output, kernel in enumerate(spectra):
                total = np.zeros(seen.shape[1], np.complex128)
                for channel, coefficients in enumerate(kernel):
                    kept = np.flatnonzero(coefficients)
                    total[kept] += coefficients[kept] * seen[channel, kept]
                    busy[output // config["units"], place, output % config["units"]] += len(kept)
                plane = np.fft.irfft2(total.reshape(size, -1), (size, size))[:step, :step]
                part = result[output, image, i * step : (i + 1) * step, j * step : (j + 1) * step]
                part[...] = np.rint(plane).astype(np.int64)[: part.shape[0], : part.shape[1]]
        done = Work(busy.reshape(-1, config["units"]), int(busy.sum()))
        return Execution(result.reshape(group.shape), group.reference(), self.activity(done, config))


def _spectral(name: str, title: str, paper: str, reuse: str, first: str) -> Spectral:
    return Spectral(
        name=name, title=title, paper=paper, compiles=False, operators=frozenset({Operator.CONV}),
        weights=HALVES, activations=Dense(), skips_weights=True, skips_activations=False, balance="-",
        reuse=reuse,
        parameters={
            "units": Parameter(64, "complex multipliers, an output each"),
            "multipliers": Parameter(1, "of a unit", 1, 1),
            "transforms": Parameter(8, "length of a transform", 8, 32), "clock_mhz": Parameter(200, "clock"),
            "weight_bits": Parameter(16, "of half a coefficient", 2, 16),
            "activation_bits": Parameter(16, "of an activation", 2, 16)},
        buffers={"weights": Buffer(32 * 1024, 38), "activations": Buffer(128 * 1024, 32),
                 "outputs": Buffer(128 * 1024, 32)},
        fibres=fibres, work=work, events=events, timing=barrier, technology="FPGA",
        assumptions=(
            first, "zeros of pruned weights are none of their spectra: only kernels without weights are left out",
            "transforms are hidden behind the products; a complex product takes a multiplier a cycle",
            "outputs are checked with spectra in double precision; stored coefficients have 16 bits a half"),
        sources=("the survey's section 7.2.1; the paper's text was not at hand",))


SPEC2 = _spectral("spec2", "SPEC2 [2019]", "Niu et al., SPEC2: SPECtral SParsE CNN Accelerator on FPGAs, 2019",
                  "weight/kernel", "kernels stay, activations stream")
SPECTRAL_CNN = _spectral("spectral-cnn", "Spectral CNN [2020]",
                         "Niu et al., an accelerator of spectral sparse CNNs, 2020", "input act.",
                         "activations stay, kernels stream")
