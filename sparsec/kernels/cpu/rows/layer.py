"""A linear layer on few rows of activations, and what the candidates of its kernels have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from sparsec.cost.option import Work
from sparsec.cost.precisions import allows
from sparsec.kernels.cpu.layer import Activations, CpuProduct
from sparsec.kernels.cpu.rows.matvec import BlockedRows, Matvec
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

MAX_ROWS = 8  # rows of activations that a sparse kernel keeps in flight
AT_ONCE = 4  # those that share a weight which is expanded while blocks are as wide as for one row
KEPT = 0.75  # of a cache that a block may take to stay in it
HALF_ERROR = 2.0 ** -8  # of a value over its row's largest: what bf16 loses in rounding
BYTES = {"f32": 4, "f16": 2}  # of a stored value
FEW = 64  # one of so many rows is asked before all are
PART = 1 << 20  # weights that are looked at together
LAYERS = 64.0  # of a network that nothing is known of
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class RowProduct(CpuProduct):
    """A weight (outputs, inputs) times few rows, `shape.batch` of them, in ONNX's own order.

    Attributes:
        zeros: the share of the activations that is expected to be zero; None where zeros are not to be looked for.
        network: the weights of the whole network as a multiple of this one, as `graph.annotations.NETWORK` has it.

    """

    shape: Matvec
    zeros: float | None = field(default=None, kw_only=True)
    network: float = field(default=LAYERS, kw_only=True)

    @property
    def inputs(self) -> tuple[Activations, ...]:
        """The rows, and the residual."""
        x = Activations(self.shape.batch * self.shape.inputs, zeros=self.zeros or 0.0)
        return (x, self.output) if self.shape.residual else (x,)

    @property
    def output(self) -> Activations:
        """The rows of products."""
        return Activations(self.shape.batch * self.shape.outputs)


class Coded(Protocol):
    """Parameters of a kernel whose values have a codec."""

    @property
    def codec(self) -> str:
        """A key of `kernels.packing.values.CODECS`."""


def codecs(layer: RowProduct, isa: Isa, precision: str) -> list[str]:
    """How values may be stored: in 16 bits where that is exact, or as precise as the layer has to be."""
    limit = HALF_ERROR if allows(precision, "bf16") else 0.0
    return ["f32", "f16"] if isa.half and layer.memoised(fits_half, limit) else ["f32"]


def fits_half(weight: np.ndarray, limit: float) -> bool:
    """Whether 16 bits are precise enough; a few rows tell of most weights that they are not."""
    rows = max(1, PART // max(1, weight.shape[1]))
    parts = (weight[start:start + rows] for start in range(0, len(weight), rows))
    return half_error(weight[::FEW]) <= limit and all(half_error(part) <= limit for part in parts)


def half_error(weight: np.ndarray) -> float:
    """The largest error of a value in 16 bits over the largest magnitude of its row."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(weight.astype(np.float16).astype(np.float32) - weight)
    same = np.isnan(weight) | np.isinf(weight)  # which 16 bits have, too
    largest = np.where(same, 0, np.abs(weight)).max(axis=1, initial=0)
    return float((np.where(same, 0, error).max(axis=1, initial=0) / np.maximum(largest, _TINY)).max(initial=0))


def stored_product(weight: np.ndarray, columns: np.ndarray, params: Coded) -> np.ndarray:
    """The product (outputs, n) of a weight as it is stored and columns (inputs, n)."""
    stored = weight.astype(np.float16).astype(np.float32) if params.codec == "f16" else weight
    return np.asarray(stored @ columns)


def too_many_rows(layer: RowProduct) -> str | None:
    """The reason of kernels that keep the sums of all rows in registers, or None."""
    return f"it is for up to {MAX_ROWS} rows, here are {layer.shape.batch}" if layer.shape.batch > MAX_ROWS else None


def vectors_of(shape: Matvec, isa: Isa, group: int = 0) -> int:
    """Vectors of rows in a block: as many as share an input's broadcast and leave their sums in registers."""
    return max(1, min(4, -(-shape.outputs // isa.lanes), isa.registers // 2 // (group or shape.batch)))


def groups_of(shape: Matvec) -> tuple[int, ...]:
    """Numbers of rows in flight worth pricing, 0 for all: equal groups read a weight as kernels for one row do."""
    rounds = -(-shape.batch // AT_ONCE)
    return (0,) if rounds == 1 else (0, -(-shape.batch // rounds))


def read_again(work: Work, p: BlockedRows, nbytes: float, target: Target) -> Work:
    """The work of a kernel with what its groups but the first read of a weight of `nbytes`, from where it lies then."""
    block, again = nbytes / p.blocks * p.streams, nbytes * (p.rounds - 1)
    if block > KEPT * target.l2_bytes:
        return replace(work, memory_bytes=work.memory_bytes + again)
    return replace(work, l2_bytes=work.l2_bytes + again) if block > KEPT * target.l1_bytes else work
