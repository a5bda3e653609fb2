"""Weights and tables in few bits, in blocks that have a scale each, as the floats that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name
from sparsec.passes.quantized.writer import Writer

FP4 = (0.0, 5.208333333e-03, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
"""bitsandbytes' numbers of 4 bits with a sign, those of the sign's bit 0."""
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
"""bitsandbytes' 16 quantiles of the normal distribution (Dettmers et al., QLoRA, appendix E)."""
WIDTH = {ir.DataType.UINT4: 4, ir.DataType.INT4: 4, ir.DataType.UINT8: 8}


def matmul_nbits(w: Writer) -> None:
    """A weight of 2, 4 or 8 bits by blocks along the inputs becomes the float32 weight that it stands for."""
    packed, scales = constant(w.input(1)), constant(w.input(2))
    if packed is None or scales is None or w.input(4) is not None:
        raise UnsupportedOperatorError(f"node '{node_name(w.node)}' (MatMulNBits): its weight is computed, or "
                                       "permuted by g_idx; export it with a constant weight in order")
    k, n, bits, block = (int(w.node.attributes.get_int(name, default) or default)
                         for name, default in (("K", 0), ("N", 0), ("bits", 4), ("block_size", 32)))
    blocks = -(-k // block)
    codes = _unpack(packed.reshape(n, -1), bits)[:, :blocks * block].reshape(n, blocks, block).astype(np.float32)
    given = constant(w.input(3))
    if given is None:
        zero = np.full((n, blocks), float(1 << bits - 1), np.float32)
    elif given.dtype.kind == "f":
        zero = given.reshape(n, blocks).astype(np.float32)
    else:
        zero = _unpack(given.reshape(n, -1), bits)[:, :blocks].astype(np.float32)
    weight = (codes - zero[..., np.newaxis]) * scales.reshape(n, blocks, 1).astype(np.float32)
    y = w.put("MatMul", w.needed(0), w.constant(np.ascontiguousarray(weight.reshape(n, -1)[:, :k].T)))
    w.replace(y if w.input(5) is None else w.put("Add", y, w.input(5)))


def matmul_bnb4(w: Writer) -> None:
    """A weight (N, K) of bitsandbytes' 4 bits, the high ones first, by blocks of its flat order."""
    packed, scales = constant(w.input(1)), constant(w.input(2))
    if packed is None or scales is None:
        raise UnsupportedOperatorError(f"node '{node_name(w.node)}' (MatMulBnb4): its weight is computed; export it "
                                       "with a constant weight")
    k, n, block, kind = (int(w.node.attributes.get_int(name, 0) or 0)
                         for name in ("K", "N", "block_size", "quant_type"))
    flat = packed.view(np.uint8).reshape(-1)
    codes = np.stack([flat >> 4, flat & 0xF], axis=-1).reshape(-1)[:n * k]
    table = np.array(NF4 if kind else (*FP4, *(-each for each in FP4)), np.float32)
    weight = table[codes] * np.repeat(scales.reshape(-1).astype(np.float32), block)[:n * k]
    w.replace(w.put("MatMul", w.needed(0), w.constant(np.ascontiguousarray(weight.reshape(n, k).T))))


def gather(w: Writer) -> None:
    """Rows of a table of codes whose blocks lie along its last axis: Gather of the floats."""
    value, scales, given = w.needed(0), constant(w.input(2)), constant(w.input(3))
    codes = constant(value)
    axis, block, bits = (int(w.node.attributes.get_int(name, default) or 0)
                         for name, default in (("quantize_axis", 1), ("block_size", 128), ("bits", 4)))
    if codes is None or scales is None or axis not in (-1, codes.ndim - 1) or value.dtype not in WIDTH:
        raise UnsupportedOperatorError(f"node '{node_name(w.node)}' (GatherBlockQuantized): its table is computed, or "
                                       "has its blocks along another axis than the last; export it as floats")
    packed = value.dtype == ir.DataType.UINT8 and bits < WIDTH[ir.DataType.UINT8]
    rows = _unpack(codes.reshape(-1, codes.shape[-1]), bits) if packed else codes.reshape(-1, codes.shape[-1])
    table, blocks = rows.astype(np.float32), scales.shape[-1]
    zero = np.full((1, 1), 1 << bits - 1 if value.dtype == ir.DataType.UINT8 else 0, np.float32)
    if given is not None:
        zeros = given.reshape(len(rows), -1)
        zero = (_unpack(zeros, bits)[:, :blocks] if packed else zeros).astype(np.float32)
        zero = np.repeat(zero, block, axis=1)[:, :table.shape[1]]
    factors = np.repeat(scales.reshape(len(rows), blocks).astype(np.float32), block, axis=1)[:, :table.shape[1]]
    floats = ((table - zero) * factors).reshape(*codes.shape[:-1], -1)
    w.replace(w.put("Gather", w.constant(floats), w.needed(1), axis=w.node.attributes.get_int("gather_axis", 0) or 0))


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes of a row from its bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = packed.view(np.uint8)[..., np.newaxis] >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(len(packed), -1)


WRITERS: dict[str, Callable[[Writer], None]] = {
    "MatMulNBits": matmul_nbits, "MatMulBnb4": matmul_bnb4, "GatherBlockQuantized": gather}
"""By operator of com.microsoft."""
