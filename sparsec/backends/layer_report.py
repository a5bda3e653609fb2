"""A layer's row of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """How a layer runs: its row of the report.

    Attributes:
        layer, operator, shape: the node's name and type, and its weight's shape.
        format, kernel, detail: how the weight is stored, and the kernel with its tiling.
        weights, nonzeros, bytes: of the weight, the last as stored.
        predicted_us, measured_us: the time of an inference; None where nothing was measured.
        error: what fewer bits do to the layer by itself, relative to its largest product; None where it is exact.
        rows: the number of rows that the row is for, where an artifact has kernels for several.
        projection_error: the norm of the weights that projecting has dropped, relative to all; None where it was not.
        reason: why this kernel runs it.
        instead_of: the format and kernel that predictions alone had chosen, where timing found this one faster.
        widened: why it computes with more bits than the model or the precision allows it, where the target tells.
        passed_over: faster kernels by which the layer alone errs by more than an output may, with these errors.

    """

    layer: str
    operator: str
    shape: tuple[int, ...]
    format: str
    kernel: str
    detail: str
    weights: int
    nonzeros: int
    bytes: int
    predicted_us: float
    measured_us: float | None
    reason: str
    error: float | None = None
    projection_error: float | None = None
    rows: int | None = None
    instead_of: tuple[str, str] | None = None
    passed_over: Mapping[str, float] | None = None
    widened: str | None = None
