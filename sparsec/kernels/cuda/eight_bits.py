"""Families that multiply codes of 8 bits: weights of int8 or e4m3 with a scale for every output, 2:4 or dense.

Weights of a quantised model are its own codes, which `rows_of_codes` finds again in the floats that they stand for;
others are rounded, the largest of an output to the largest code. Sums of integers are exact; `offset` takes from them
what the activations' zero point adds, so that Y = activation(float(sum + offset) * scale + bias + residual).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np

from sparsec.kernels.cuda import mma_dense, mma_sp, pipeline, wgmma, wgmma_bulk
from sparsec.kernels.cuda.codes import E4M3, E4M3_LARGEST, Codes, decode, encode
from sparsec.kernels.cuda.family import Architectures, Arrays, GpuFamily, GpuProduct, family, product_params
from sparsec.kernels.cuda.params import MmaParams, Tile
from sparsec.kernels.cuda.specialised import PersistentParams
from sparsec.kernels.cuda.tiles import WARP_GROUP_TILES

LARGEST = {"int8": 127.0, E4M3: E4M3_LARGEST}
MOST_STEPS = 128
"""The largest code of a row that is looked for, of either sign."""
CLOSE = 1e-6
"""How far a weight may be from a whole number of steps, in steps of its output; float32 rounds to half of that."""
FEW = 64
"""Columns that rule out most scales."""
LARGEST_SUM = (1 << 31) - 1
NOT_CODES = "its weight is not made of signed bytes, one scale an output"
FP8_ARCHS = ("sm_89",)
"""Those whose single warps multiply e4m3; sm_90 converts it to half precision, and spills registers."""
GROUPS = "sm_90"
"""The architecture whose warp groups multiply bytes."""


def rows_of_codes(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | str:
    """The int8 codes and the float32 scale by output that a float weight (m, depth) is made of, or why there are none.

    Every row is taken for multiples of the largest step of which it is.
    """
    largest = np.abs(weight).max(axis=1, initial=0).astype(np.float64)
    scale = np.where(largest > 0, 0.0, 1.0)
    for steps in range(1, MOST_STEPS + 1):
        open_rows = np.flatnonzero(scale == 0)
        if not open_rows.size:
            break
        unit = largest[open_rows] / steps
        for width in (FEW, weight.shape[1]):
            multiples = weight[open_rows, :width] / unit[:, np.newaxis]
            fits = (np.abs(multiples - np.rint(multiples)) <= CLOSE * steps).all(axis=1)
            open_rows, unit = open_rows[fits], unit[fits]
        scale[open_rows] = unit
    codes = np.rint(weight / np.where(scale > 0, scale, 1)[:, np.newaxis])
    if not scale.all() or codes.max(initial=0) >= MOST_STEPS:
        return NOT_CODES
    return codes.astype(np.int8), scale.astype(np.float32)


def rounded(weight: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a float weight (m, depth), int8 or e4m3 as its bytes, and the float32 scale by output."""
    largest = np.abs(weight.astype(np.float32)).max(axis=1, initial=0)
    scale = largest / np.float32(LARGEST[dtype])
    scale = np.where(scale > 0, scale, 1).astype(np.float32)  # zeros, and denormals of which no scale is left
    units = weight.astype(np.float32) / scale[:, np.newaxis]
    if dtype == "int8":
        return np.rint(units).astype(np.int8), scale
    narrow = np.clip(units, -E4M3_LARGEST, E4M3_LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return np.where(narrow == 0, np.uint8(0), narrow.view(np.uint8)), scale  # no zero of either sign is stored


def weight_codes(layer: GpuProduct, arranged: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of a layer's weight in the order that a format arranges."""
    if layer.given is not None:
        found = rows_of_codes(arranged)
        assert not isinstance(found, str)  # `reject` has asked for the layer's weight
        return found
    return rounded(arranged, dtype)


def constants(layer: GpuProduct, arranged: np.ndarray, dtype: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """A weight's codes, and the arrays behind it: the scales of sums and, for integers, what is added to them."""
    activations = layer.codes(dtype)
    assert isinstance(activations, Codes)  # it was offered
    codes, scale = weight_codes(layer, arranged, dtype)
    scales = scale * np.float32(activations.scale)
    if dtype != "int8":
        return codes, [scales]
    offset = -activations.zero_point * codes.astype(np.int64).sum(axis=1)
    return codes, [scales, offset.astype(np.int32)]


def product(layer: GpuProduct, weight: np.ndarray, activations: np.ndarray, dtype: str) -> np.ndarray:
    """The product (m, n) of a weight and activations (depth, n) by a layer's codes, sums exact, before the bias."""
    kind = layer.codes(dtype)
    assert isinstance(kind, Codes)
    codes, scale = weight_codes(layer, weight, dtype)
    left = codes.astype(np.float64) if dtype == "int8" else codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    sums = left @ decode(encode(activations, kind), kind).astype(np.float64)
    result: np.ndarray = sums.astype(np.float32) * (scale * np.float32(kind.scale))[:, np.newaxis]
    return result


def _reject(dtype: str, fp8: Sequence[str] = FP8_ARCHS) -> Callable[[GpuProduct, Architectures], str | None]:
    def reject(layer: GpuProduct, archs: Architectures) -> str | None:
        activations = layer.codes(dtype)
        if isinstance(activations, str):
            return activations
        old = [arch for arch in archs if dtype == E4M3 and arch not in fp8]
        inputs = layer.window.image[2] if layer.window else layer.weight.shape[1]
        reasons = {
            f"single warps of {' and '.join(old)} have no products of e4m3": bool(old),
            "its weight multiplies columns": layer.sides,
            f"its {inputs} inputs are an odd number of bytes": inputs % 2 == 1,
            NOT_CODES: layer.given is not None and layer.memoised(_not_codes),
            "its sums may exceed 32 bits": dtype == "int8" and layer.memoised(_largest_sum) > LARGEST_SUM,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    return reject


def _not_codes(weight: np.ndarray) -> bool:
    """Whether a weight of floats is none of codes and scales."""
    return isinstance(rows_of_codes(weight), str)


def _largest_sum(weight: np.ndarray) -> float:
    """A bound of sums of codes, of bytes without a sign with those of a rounded weight."""
    largest = np.abs(weight).max(axis=1, initial=0)
    totals = np.abs(weight).sum(axis=1, dtype=np.float64) / np.where(largest > 0, largest, 1)
    return 2 * 255 * 127.5 * float(totals.max(initial=0))


def _reference(weight: np.ndarray, activations: np.ndarray, p: MmaParams) -> np.ndarray:
    """The product of codes with those of their own range; `product` has a layer's."""
    layer = GpuProduct(weight, np.zeros(len(weight)), activations.shape[1], p.epilogue,
                       ranges=(float(activations.min(initial=0)), float(activations.max(initial=0))))
    return product(layer, weight, activations, p.dtype)


def _of(dtype: str) -> Callable[[MmaParams], str | None]:
    return lambda p: None if p.dtype == dtype else f"it multiplies {dtype}, not {p.dtype}"


def _families(dtype: str, precision: str) -> tuple[GpuFamily[MmaParams], GpuFamily[MmaParams]]:
    """The sparse and the dense family of single warps that multiply codes of a type."""
    wrong = _of(dtype)
    sparse = family(f"mma.sp {precision}", mma_sp.FORMATS, weight=mma_sp.weight, pack=mma_sp.pack,
                    unpack=mma_sp.unpack, params=product_params, sparse=True, reject=_reject(dtype), dtype=dtype,
                    refuses=lambda p: mma_sp.refuses(p) or wrong(p), precision=precision, reference=_reference)
    dense = family(f"mma {precision}", ("dense",), weight=mma_dense.weight, pack=mma_dense.pack,
                   unpack=mma_dense.unpack, params=product_params, refuses=wrong, reject=_reject(dtype), dtype=dtype,
                   precision=precision, reference=_reference)
    return sparse, dense


def _by_groups(dtype: str, precision: str) -> tuple[GpuFamily[MmaParams], GpuFamily[MmaParams]]:
    """The sparse and the dense family of warp groups that multiply codes of a type."""
    wrong = _of(dtype)

    def groups(name: str, packing: GpuFamily[MmaParams], weight: Callable[[MmaParams], pipeline.Weight],
               pack: Callable[[np.ndarray, MmaParams], Arrays]) -> GpuFamily[MmaParams]:
        return family(f"{name} {precision}", packing.formats, weight=weight, pack=pack, unpack=packing.unpack,
                      params=packing.params, sparse=packing.sparse, reject=_reject(dtype, (GROUPS,)),
                      refuses=lambda p: wgmma.refuses_tile(p) or wrong(p), tiles=WARP_GROUP_TILES, dtype=dtype,
                      architecture=wgmma.ARCHITECTURE, precision=precision, reference=_reference)

    return (groups("wgmma.sp", mma_sp.FAMILY, wgmma.sparse_weight, mma_sp.pack),
            groups("wgmma", mma_dense.FAMILY, wgmma.dense_weight, mma_dense.pack))


def _persistent(dtype: str, precision: str) -> tuple[GpuFamily[PersistentParams], GpuFamily[PersistentParams]]:
    """The sparse and the dense family of persistent blocks that multiply codes of a type."""
    own = _reject(dtype, (GROUPS,))

    def blocks(name: str, tiles: tuple[Tile, ...], *, sparse: bool) -> GpuFamily[PersistentParams]:
        return wgmma_bulk.persistent(
            f"{name} {precision}", tiles, sparse=sparse, refuses=_of(dtype), dtype=dtype, precision=precision,
            reject=lambda layer, archs: wgmma_bulk.reject(layer, archs) or own(layer, archs), reference=_reference)

    return (blocks("wgmma.sp bulk", wgmma_bulk.SPARSE_BYTE_TILES, sparse=True),
            blocks("wgmma bulk", wgmma_bulk.DENSE_TILES, sparse=False))


SPARSE_INT8, DENSE_INT8 = _families("int8", "int8")
SPARSE_FP8, DENSE_FP8 = _families(E4M3, "fp8")
SPARSE_GROUPS_INT8, GROUPS_INT8 = _by_groups("int8", "int8")
SPARSE_GROUPS_FP8, GROUPS_FP8 = _by_groups(E4M3, "fp8")
SPARSE_BULK_INT8, BULK_INT8 = _persistent("int8", "int8")
SPARSE_BULK_FP8, BULK_FP8 = _persistent(E4M3, "fp8")
