"""Non-maximum suppression of boxes, as ONNX's NonMaxSuppression defines it."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel
from sparsec.kernels.tensors import SuppressionParams


def build(params: SuppressionParams, isa: Isa) -> Kernel:  # noqa: ARG001 - one box after another decides
    """The kernel: (boxes, scores, most per class, IoU threshold, score threshold) -> (selected, 3) as int64.

    Rows of the output that no box fills hold -1.
    """
    p = params
    arguments = {
        "boxes": (p.batches * p.boxes * 4, "float32"), "scores": (p.batches * p.classes * p.boxes, "float32"),
        "most": (1, "int64"), "overlap": (1, "float32"), "least": (1, "float32"), "selected": (p.selected * 3, "int64")}
    return kernel(arguments, lambda b: _emit(b, params))


def _emit(b: Buffers, p: SuppressionParams) -> None:
    """In each class, the best box that is left is selected and drops those that overlap it too much."""
    alive = T.alloc_buffer((p.boxes,), "int32")
    found, taken, best, going = (T.alloc_buffer((1,), "int32") for _ in range(4))
    T.buffer_store(found, 0, [0])
    with T.serial(0, p.selected * 3) as i:
        T.buffer_store(b["selected"], T.int64(-1), [i])
    with T.serial(0, p.batches * p.classes) as group:
        scores = group * p.boxes
        with T.serial(0, p.boxes) as i:
            T.buffer_store(alive, T.Select(b["scores"][scores + i] > b["least"][0], 1, 0), [i])
        T.buffer_store(taken, 0, [0])
        T.buffer_store(going, 1, [0])
        with T.While(going[0] == 1):
            _find_best(b["scores"], scores, alive, best, p.boxes)
            full = T.Or(T.Cast("int64", taken[0]) >= b["most"][0], found[0] >= p.selected)
            with T.If(T.Or(best[0] < 0, full)):
                with T.Then():
                    T.buffer_store(going, 0, [0])
                with T.Else():
                    for column, value in enumerate((group // p.classes, group % p.classes, best[0])):
                        T.buffer_store(b["selected"], T.Cast("int64", value), [found[0] * 3 + column])
                    T.buffer_store(found, found[0] + 1, [0])
                    T.buffer_store(taken, taken[0] + 1, [0])
                    _drop_overlapping(b, p, alive, group // p.classes * p.boxes, best[0])


def _find_best(scores: Buffer, start: Expr, alive: Buffer, best: Buffer, boxes: int) -> None:
    """The first of the highest scores that are left; -1 if none is."""
    T.buffer_store(best, -1, [0])
    with T.serial(0, boxes) as i:
        higher = T.Or(best[0] < 0, scores[start + i] > scores[start + T.max(best[0], 0)])
        with T.If(T.And(alive[i] == 1, higher)), T.Then():
            T.buffer_store(best, i, [0])


def _drop_overlapping(b: Buffers, p: SuppressionParams, alive: Buffer, first: Expr, best: Expr) -> None:
    """Drop the box itself, and all whose intersection over union with it exceeds the threshold."""
    T.buffer_store(alive, 0, [best])
    mine = [T.Bind(side) for side in _sides(b["boxes"], (first + best) * 4, centred=p.centred)]
    with T.serial(0, p.boxes) as i, T.If(alive[i] == 1), T.Then():
        other = _sides(b["boxes"], (first + i) * 4, centred=p.centred)
        zero = T.float32(0)
        width, height = (T.max(zero, T.min(mine[k + 1], other[k + 1]) - T.max(mine[k], other[k])) for k in (0, 2))
        areas = [(box[1] - box[0]) * (box[3] - box[2]) for box in (mine, other)]
        shared = T.Bind(width * height)
        union = areas[0] + areas[1] - T.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", shared)
        overlapping = T.And(shared > zero, shared / union > b["overlap"][0])  # as onnxruntime computes it
        with T.If(overlapping), T.Then():
            T.buffer_store(alive, 0, [i])


def _sides(boxes: Buffer, at: Expr, *, centred: bool) -> list[Expr]:
    """Left, right, top and bottom of a box."""
    a, b, c, d = (boxes[at + k] for k in range(4))
    if centred:
        half = T.float32(0.5)
        return [a - c * half, a + c * half, b - d * half, b + d * half]
    return [T.min(b, d), T.max(b, d), T.min(a, c), T.max(a, c)]
