"""Operators that the interpreter runs by an implementation of its own, faster or more lenient than ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph import control


class NonMaxSuppression(OpRun):
    """The boxes of the highest scores, without those that overlap a chosen one of their class too much."""

    op_domain = ""

    def _run(self, boxes: np.ndarray, scores: np.ndarray, most: Any = None, overlap: Any = None, least: Any = None,
             center_point_box: int = 0) -> tuple[np.ndarray]:
        count = 0 if most is None else int(np.reshape(most, -1)[0])
        threshold = 0.0 if overlap is None else float(np.reshape(overlap, -1)[0])
        lowest = -np.inf if least is None else float(np.reshape(least, -1)[0])
        rows = [(batch, kind, box) for batch in range(scores.shape[0]) for kind in range(scores.shape[1])
                for box in _chosen(_corners(boxes[batch], centred=bool(center_point_box)), scores[batch, kind], count,
                                   threshold, lowest)]
        return (np.array(rows, np.int64).reshape(-1, 3),)


def _corners(boxes: np.ndarray, *, centred: bool) -> np.ndarray:
    """Boxes (n, 4) as their lower and upper corners."""
    if centred:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([middle - half, middle + half], axis=1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


def _chosen(boxes: np.ndarray, scores: np.ndarray, count: int, threshold: float, lowest: float) -> list[int]:
    """The boxes of one class, the highest score first."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > lowest]
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    chosen: list[int] = []
    while len(order) and len(chosen) < count:
        best, order = order[0], order[1:]
        chosen.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = area[best] + area[order] - shared
        order = order[~((shared > 0) & (shared > threshold * union))]
    return chosen


OPERATORS: list[type[OpRun]] = [NonMaxSuppression, *control.OPERATORS]
"""By their class names."""
