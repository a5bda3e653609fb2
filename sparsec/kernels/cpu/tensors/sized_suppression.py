"""Non-maximum suppression of any number of boxes, as ONNX's NonMaxSuppression defines it and onnxruntime computes it.

In each class the scores above the threshold become a heap. Its highest is taken as long as boxes are wanted, and kept
if it overlaps no box that is kept already by too much. Those lie by coordinate, so that a vector of them is compared at
once. Quotients and differences are onnxruntime's to the bit, for the threshold decides by them.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from sparsec.graph.sized import KEPT_PARTS
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, splat, store

SIZES = ("batches", "classes", "boxes", "most", "centred", "all", "room")
"""The elements of the argument `sizes`: most is that of each class, all says that no score is too low, and room is how
many kept boxes `kept` has room for, a multiple of `KEPT_ROOM`."""
UPPER_Y, UPPER_X, AREA = 2, 3, 4
"""What is kept of a box behind its lower corner."""


def build(isa: Isa) -> Kernel:
    """The kernel: (sizes, limits, boxes, scores, heap, order, kept) -> (selected, found).

    `limits` are the largest overlap and the score that others exceed; `heap` and `order` have an element a box, `kept`
    has `KEPT_PARTS` times the room; `selected` takes rows of three, and `found` their number.
    """
    floats = dict.fromkeys(("limits", "boxes", "scores", "heap"), (None, "float32"))
    return kernel({"sizes": (len(SIZES), "int64"), **floats, "order": (None, "int32"), "kept": (None, "float32"),
                   "selected": (None, "int64"), "found": (None, "int64")}, lambda b: _emit(b, isa), views=True)


def _emit(b: Buffers, isa: Isa) -> None:
    s = {name: T.Bind(b["sizes"][place]) for place, name in enumerate(SIZES)}
    numbers = T.alloc_buffer((4,), "int64")  # candidates in the heap, kept boxes of the class, rows found, a place
    T.buffer_store(numbers, T.int64(0), [FOUND])
    with T.serial(0, s["batches"] * s["classes"]) as group:
        batch = T.Bind(T.truncdiv(group, s["classes"]))
        _collect(b, s, group, numbers, isa)
        T.buffer_store(numbers, T.int64(0), [KEPT])
        with T.While(T.And(numbers[COUNT] > 0, numbers[KEPT] < s["most"])):
            box = T.Bind(T.Cast("int64", b["order"][0]))
            _pop(b, numbers)
            _consider(b, s, (batch * s["boxes"] + box) * 4, numbers, isa, lambda: _select(
                b, (batch, group - batch * s["classes"], box), numbers))
    T.buffer_store(b["found"], numbers[FOUND], [0])


COUNT, KEPT, FOUND, PLACE = range(4)


def _collect(b: Buffers, s: dict[str, Expr], group: Expr, numbers: Buffer, isa: Isa) -> None:
    """The heap of the scores of a class: vectors without one that counts are passed over."""
    lanes, first = isa.lanes, T.Bind(group * s["boxes"])
    least = T.Bind(b["limits"][1])
    T.buffer_store(numbers, T.int64(0), [COUNT])
    blocks = T.Bind(T.truncdiv(s["boxes"], lanes))

    def take(place: Expr) -> None:
        score = T.Bind(b["scores"][first + place])
        with T.If(T.Or(s["all"] == 1, score > least)), T.Then():
            T.buffer_store(b["heap"], score, [numbers[COUNT]])
            T.buffer_store(b["order"], T.Cast("int32", place), [numbers[COUNT]])
            T.buffer_store(numbers, numbers[COUNT] + 1, [COUNT])

    with T.serial(0, blocks) as block:
        above = _any(T.Select(load(b["scores"], first + block * lanes, lanes) > splat(least, lanes),
                              splat(1.0, lanes), splat(0.0, lanes)), lanes)
        with T.If(T.Or(s["all"] == 1, above)), T.Then(), T.serial(0, lanes) as lane:
            take(block * lanes + T.Cast("int64", lane))
    with T.serial(0, s["boxes"] - blocks * lanes) as rest:
        take(blocks * lanes + rest)
    half = T.Bind(T.truncdiv(numbers[COUNT], 2))
    with T.serial(0, half) as step:
        _sift(b, numbers, half - 1 - step)


def _any(vector: Expr, lanes: int) -> Expr:
    """Whether a vector of zeros and ones has a one."""
    if lanes == 1:
        return vector > T.float32(0.0)
    ones = registers(1, lanes)
    store(ones, 0, vector)
    width = lanes
    while width > 1:
        width //= 2
        store(ones, 0, T.max(load(ones, 0, width), load(ones, width, width)))
    return T.Bind(ones[0]) > T.float32(0.0)


def _pop(b: Buffers, numbers: Buffer) -> None:
    """Take the highest score out of the heap."""
    last = T.Bind(numbers[COUNT] - 1)
    T.buffer_store(numbers, last, [COUNT])
    for name in ("heap", "order"):
        T.buffer_store(b[name], b[name][last], [0])
    _sift(b, numbers, T.int64(0))


def _sift(b: Buffers, numbers: Buffer, place: Expr) -> None:
    """Let an element sink below those that go before it: higher scores, of equal ones the first."""
    score, number = registers(1, 1), registers(1, 1, "int32")
    T.buffer_store(score, b["heap"][place], [0])
    T.buffer_store(number, b["order"][place], [0])
    T.buffer_store(numbers, place, [PLACE])
    count, going = T.Bind(numbers[COUNT]), T.alloc_buffer((1,), "int32")
    T.buffer_store(going, 1, [0])
    with T.While(T.And(going[0] == 1, 2 * numbers[PLACE] + 1 < count)):
        left = T.Bind(2 * numbers[PLACE] + 1)
        right = T.Bind(T.min(left + 1, count - 1))
        child = T.Bind(T.Select(_before(b["heap"][right], b["order"][right], b["heap"][left], b["order"][left]),
                                right, left))
        with T.If(_before(b["heap"][child], b["order"][child], score[0], number[0])):
            with T.Then():
                for name in ("heap", "order"):
                    T.buffer_store(b[name], b[name][child], [numbers[PLACE]])
                T.buffer_store(numbers, child, [PLACE])
            with T.Else():
                T.buffer_store(going, 0, [0])
    T.buffer_store(b["heap"], score[0], [numbers[PLACE]])
    T.buffer_store(b["order"], number[0], [numbers[PLACE]])


def _before(score: Expr, number: Expr, other: Expr, others: Expr) -> Expr:
    return T.Or(score > other, T.And(score == other, number < others))


def _consider(b: Buffers, s: dict[str, Expr], at: Expr, numbers: Buffer, isa: Isa,
              select: Callable[[], None]) -> None:
    """Keep a box that overlaps none of the kept ones by too much."""
    lanes, mine = isa.lanes, registers(KEPT_PARTS, 1)
    with T.If(s["centred"] == 1):
        with T.Then():
            _corners_of_centre(b["boxes"], at, mine)
        with T.Else():
            _corners(b["boxes"], at, mine)
    T.buffer_store(mine, (mine[UPPER_Y] - mine[0]) * (mine[UPPER_X] - mine[1]), [AREA])
    state = T.alloc_buffer((2,), "int64")  # whether it is too near, and the block to compare with
    T.buffer_store(state, T.int64(0), [0])
    T.buffer_store(state, T.int64(0), [1])
    with T.While(T.And(state[0] == 0, state[1] * lanes < numbers[KEPT])):
        near = _near(b, s, mine, state[1] * lanes, lanes)
        T.buffer_store(state, T.Cast("int64", near), [0])
        T.buffer_store(state, state[1] + 1, [1])
    with T.If(state[0] == 0), T.Then():
        _keep(b, s, mine, numbers, lanes)
        select()


def _near(b: Buffers, s: dict[str, Expr], mine: Buffer, first: Expr, lanes: int) -> Expr:
    """Whether a box overlaps one of a vector of kept ones by more than the limit."""
    own = [splat(mine[part], lanes) for part in range(KEPT_PARTS)]
    theirs = [load(b["kept"], part * s["room"] + first, lanes) for part in range(KEPT_PARTS)]
    zero, shared = splat(0.0, lanes), registers(3, lanes)
    for axis in range(2):
        store(shared, axis * lanes, T.min(own[axis + 2], theirs[axis + 2]) - T.max(own[axis], theirs[axis]))
    height, width = (load(shared, axis * lanes, lanes) for axis in range(2))
    store(shared, 2 * lanes, height * width)
    both = T.call_llvm_pure_intrin(str(height.ty), "llvm.arithmetic.fence", load(shared, 2 * lanes, lanes))
    union = own[AREA] + theirs[AREA] - both
    hit = both / union > splat(b["limits"][0], lanes)
    for positive in (height, width, both, own[AREA], theirs[AREA], union):
        hit = T.And(hit, positive > zero) if lanes == 1 else T.bitwise_and(hit, positive > zero)
    return _any(T.Select(hit, splat(1.0, lanes), zero), lanes)


def _keep(b: Buffers, s: dict[str, Expr], mine: Buffer, numbers: Buffer, lanes: int) -> None:
    """Put a box behind the kept ones; the rest of its vector has no area, and is near nothing."""
    kept = T.Bind(numbers[KEPT])
    with T.If(T.truncmod(kept, lanes) == 0), T.Then():
        for part in range(KEPT_PARTS):
            store(b["kept"], part * s["room"] + kept, splat(0.0, lanes))
    for part in range(KEPT_PARTS):
        T.buffer_store(b["kept"], mine[part], [part * s["room"] + kept])
    T.buffer_store(numbers, kept + 1, [KEPT])


def _select(b: Buffers, row: tuple[Expr, ...], numbers: Buffer) -> None:
    """One more row of the result."""
    for column, value in enumerate(row):
        T.buffer_store(b["selected"], T.Cast("int64", value), [numbers[FOUND] * 3 + column])
    T.buffer_store(numbers, numbers[FOUND] + 1, [FOUND])


def _corners(boxes: Buffer, at: Expr, mine: Buffer) -> None:
    """The lower and the upper corner of two opposite ones."""
    for axis in range(2):
        one, other = T.Bind(boxes[at + axis]), T.Bind(boxes[at + axis + 2])
        T.buffer_store(mine, T.min(one, other), [axis])
        T.buffer_store(mine, T.max(one, other), [axis + 2])


def _corners_of_centre(boxes: Buffer, at: Expr, mine: Buffer) -> None:
    """The corners around a centre; x comes first there."""
    for axis in range(2):
        middle, half = T.Bind(boxes[at + axis]), T.Bind(boxes[at + axis + 2] * T.float32(0.5))
        T.buffer_store(mine, middle - half, [1 - axis])
        T.buffer_store(mine, middle + half, [3 - axis])
