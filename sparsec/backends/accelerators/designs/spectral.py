"""SPEC2 (Niu et al. 2019) and the spectral CNN accelerator (Niu et al. 2020): convolutions as products of spectra.

Tiles of the plane and kernels are transformed; every non-zero coefficient of a kernel, kept with its coordinates, is a
complex product. Outputs overlap nowhere (overlap-save); strides become channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, Fibres
from sparsec.backends.accelerators.description import Execution, Parameter
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.fixed_point import fitting
from sparsec.backends.accelerators.layer import Layer, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, shares
from sparsec.backends.accelerators.representation import BlockIndex, Dense
from sparsec.backends.accelerators.timing import Configuration, barrier

Spectra = NDArray[np.complex128]
SMALL = 1e-9
"""Coefficients below this share of the largest possible are zero but for rounding."""
KERNELS = 1 << 14
"""Kernels that are transformed at once."""


def size_of(layer: Operands, config: Configuration) -> int:
    """Length of a transform: the configured one, or as long as a larger kernel needs."""
    size = config["transforms"]
    while size < max(layer.weight.shape[2:]) * 2 - 1:
        size *= 2
    return size


def largest(layer: Operands) -> float:
    """What no coefficient exceeds: the largest sum of a kernel's magnitudes."""
    return float(np.abs(layer.weight).sum(axis=(2, 3)).max(initial=0))


def kernels(layer: Operands, size: int, part: slice = slice(None)) -> Spectra:
    """(outputs, channels, coefficients) some outputs' spectra, half of them, since weights are real."""
    weight = layer.weight[part]
    spectra = np.conj(np.fft.rfft2(weight, (size, size))).reshape(*weight.shape[:2], -1)
    spectra[np.abs(spectra) <= SMALL * largest(layer)] = 0
    return spectra


def parts(layer: Operands) -> Iterator[slice]:
    """The outputs, so many at a time that their spectra take little memory."""
    step = max(1, KERNELS // layer.weight.shape[1])
    return (slice(first, first + step) for first in range(0, len(layer.weight), step))


def tiles(layer: Operands, size: int) -> tuple[NDArray[np.int32], int, int, int]:
    """(images, tiles down, tiles across, channels, size, size), the outputs of a tile's side, and the plane's sides."""
    high, wide = layer.weight.shape[2:]
    step = size - max(high, wide) + 1
    _, rows, columns = layer.windows.shape[:3]
    top, left, bottom, right = layer.pads
    down, across = -(-rows // step), -(-columns // step)
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
    stored = [number.quantize(np.stack((spectra.real, spectra.imag), axis=3).reshape(
        -1, 2 * spectra.shape[2]).astype(np.float32))
              for spectra in (kernels(plain, size, part) for part in parts(plain))]
    return np.concatenate(stored), layer.x.reshape(-1, layer.x.shape[3])


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a round of outputs of a tile: a unit takes a cycle a coefficient of its output's kernels."""
    plain = layer.unstrided()
    size = size_of(plain, config)
    kept = np.concatenate([np.count_nonzero(kernels(plain, size, part), axis=(1, 2)) for part in parts(plain)])
    cut, step, *_ = tiles(plain, size)
    count = int(np.prod(cut.shape[:3]))
    table = shares(kept[None].astype(np.int64), config["units"])
    products = int(kept.sum()) * count
    return Work(table, products, times=np.full(len(table), count), accesses={
        "weights": products, "activations": cut.shape[3] * count * size * (size // 2 + 1),
        "outputs": len(layer.weight) * count * step * step})


def events(_layer: Operands, _config: Configuration) -> Iterator[Event]:
    """None: products are added as spectra, see `Spectral.execute`."""
    return iter(())


@dataclass(frozen=True, kw_only=True)
class Spectral(Composed):
    """An accelerator whose products are those of spectra."""

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
        weights=BlockIndex(block=2), activations=Dense(), skips_weights=True, skips_activations=False, balance="-",
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
