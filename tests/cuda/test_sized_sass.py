"""What NVIDIA's compiler makes of the kernels whose sizes the run tells: within every architecture's limits."""

from functools import cache

import pytest

from sparsec.backends.cuda import computed
from sparsec.backends.cuda.between import BITS, QUERIES
from sparsec.graph.operators.recurrence import EARLY, Activation
from sparsec.graph.sized import Computed
from sparsec.kernels.cuda import (
    sized_attention,
    sized_copy,
    sized_levels,
    sized_recurrence,
    sized_rotary,
    sized_threads,
    sized_windows,
    tiles,
)
from sparsec.kernels.cuda.attention_params import AttentionParams, tiled
from sparsec.kernels.emit.projection import Projection
from sparsec.kernels.tensors import Direction
from tests.support.cuda.sass import check_limits, instructions, needs_cuobjdump, needs_nvcc

pytestmark = needs_nvcc


def attentions():
    """By architecture the blocks of queries; heads of all widths, masks and caches in turn."""
    for index, (architecture, queries) in enumerate((each, queries) for each in tiles.LIMITS for queries in QUERIES):
        for width, masked, grown in ((128, True, index % 2 == 0), (64, index % 2 == 0, True), (24, True, False)):
            own = Projection(width)
            mask = (1, 1, queries, queries) if masked else None
            p = AttentionParams(1, width, 1, queries, queries, width**-0.5, own, own, own, mask,
                                ("float16", "bfloat16")[index % 2])
            name = f"{architecture}-{queries}-{width}" + "-masked" * masked + "-grown" * grown
            yield pytest.param(tiled(p, [architecture]), grown, architecture, id=name)


@cache
def attention(p, grown):
    return sized_attention.build(p, grown=grown)


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize(("p", "grown", "architecture"), attentions())
def test_attention_stays_within_limits(p, grown, architecture):
    few = 32  # bytes, outside of the loop, where the assembler prefers four blocks
    check_limits(attention(p, grown), 2 * p.tile.threads, 2 * p.shared_bytes, architecture, few)  # two blocks


@needs_cuobjdump
@pytest.mark.parametrize(("p", "grown", "architecture"), list(attentions())[::5])
def test_attention_is_tensor_instructions(p, grown, architecture):
    blocks = p.tile.row_blocks * (p.steps * p.tile.keys // 8 + p.width // 8 * (p.tile.keys // 16))
    assert instructions(attention(p, grown), architecture, "HMMA") >= blocks
    assert instructions(attention(p, grown), architecture, "LDGSTS") > 0


MOVES = {
    **{f"copy {bits}": (sized_copy.build(bits, bits), sized_threads.THREADS) for bits in BITS},
    **{f"copy {source} to {to}": (sized_copy.build(source, to), sized_threads.THREADS)
       for source, to in (("float16", "float32"), ("float32", "bfloat16"))},
    "append": (sized_copy.build("float32", "float16", behind=True), sized_threads.THREADS),
    **{f"rotary {depth} {both}": (sized_rotary.build(depth, "float16", both=both), sized_threads.THREADS)
       for depth, both in ((64, True), (128, False))},
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_stay_within_limits(name):
    function, threads = MOVES[name]
    check_limits(function, 4 * threads, 0, list(tiles.LIMITS)[sorted(MOVES).index(name) % len(tiles.LIMITS)])


OTHERS = {
    **{f"windows {kind}": (sized_windows.build(kind, "float16"), sized_threads.THREADS, 0)
       for kind in sized_windows.KINDS},
    **{f"levels of {dtype}": (sized_levels.build(dtype), sized_levels.THREADS, 0) for dtype in ("float32", "bfloat16")},
    **{each.name: (computed.build(each), 256, 8192) for each in (
        Computed("ReduceMax", ("float16",), "float32"), Computed("ReduceL2", ("bfloat16",), "float32"),
        Computed("Pow", ("float32", "float16"), "float32"), Computed("Where", ("bool", "int64", "int64"), "int64"),
        Computed("Sigmoid", ("float16",), "float16"), Computed("Greater", ("float32", "float16"), "bool"),
        Computed("ArgMax", ("float16",), "int64"), Computed("TopK", ("float32",), "float32"),
        Computed("Take", ("float16", "int64"), "float16"), Computed("MatMul", ("float16", "float32"), "float32"))},
    **{f"{each.cell} of {each.hidden}": (sized_recurrence.build(each), min(1024, each.gates), 4 * each.gates)
       for each in (Direction(cell, 1, 1, hidden, tuple(map(Activation, names.split())), clip=0.5)
                    for cell, hidden, names in (("LSTM", 2048, "sigmoid tanh tanh"), ("GRU", 96, "sigmoid tanh"),
                                                (EARLY, 50, "hard_sigmoid leaky_relu"), ("RNN", 256, "relu")))},
}


@pytest.mark.parametrize("name", OTHERS)
def test_layers_stay_within_limits(name):
    function, threads, shared = OTHERS[name]
    few = 32  # bytes, where the assembler prefers many blocks
    check_limits(function, threads, shared, list(tiles.LIMITS)[sorted(OTHERS).index(name) % len(tiles.LIMITS)], few)
