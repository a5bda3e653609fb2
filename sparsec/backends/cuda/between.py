"""The kernels between the stages of a model for run-time sizes: attention, rotations, copies of what lies otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product

from sparsec.backends.cuda import attention_cost
from sparsec.backends.cuda.build import build_kernels
from sparsec.backends.program import Functions
from sparsec.cost.gpu import DEVICES, KEPT_BYTES_PER_S, NEXT_S
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.sized import Attention
from sparsec.kernels.cuda import attention_parts, key_lists, sized_attention, sized_copy, sized_rotary
from sparsec.kernels.cuda.attention_params import AttentionParams, reject, tiled, unit
from sparsec.kernels.cuda.key_lists import ListParams
from sparsec.kernels.emit.projection import Projection
from sparsec.target import Target

BITS = ("uint8", "uint16", "uint32", "uint64")
"""As which what is not converted is copied, by its size."""
QUERIES = (16, 64)
"""Queries of a block: those for the fewest, as in decoding, and for many."""


def build(attentions: Sequence[Attention], rotations: Sequence[tuple[int, bool]], target: Target, half: str,
          *, caches: bool = False) -> tuple[Functions, Mapping[str, object]]:
    """The library, and what calls of attention are told: the queries of the kernels' blocks, and what these take.

    Where there are `caches`, there are kernels that append to them, and attention of as many keys as these have.

    Raises:
        UnsupportedOperatorError: there is no kernel for an attention.

    """
    floats = (half, "float32")
    kernels = {f"copy_{source}_{to}": sized_copy.build(source, to) for source, to in (floats, floats[::-1])}
    kernels |= {f"copy_{bits}": sized_copy.build(bits, bits) for bits in BITS}
    kernels |= {f"append_{source}": sized_copy.build(source, half, behind=True) for source in floats if caches}
    kernels |= {f"rotary{number}": sized_rotary.build(depth, half, both=both)
                for number, (depth, both) in enumerate(rotations)}
    for number, each in enumerate(attentions):
        for queries, masked, grown in product(QUERIES, (False, True), (False, True)[:1 + caches]):
            p = _params(each, queries, half, target, masked=masked)
            name = f"attention{number}_{queries}" + "_masked" * masked + "_grown" * grown
            kernels[name] = sized_attention.build(p, grown=grown)
            if masked:
                lists = f"lists_{p.tile.queries}_{p.tile.keys}" + "_grown" * grown
                kernels[lists] = key_lists.build_sized(ListParams(p.tile.queries, p.tile.keys), grown=grown)
            kernels[f"combine{number}" + "_masked" * masked] = attention_parts.build(p.width, half, unit(masked=masked))
    return build_kernels(kernels, target), _told({each.width for each in attentions}, half, target)


def _told(widths: Collection[int], half: str, target: Target) -> dict[str, object]:
    """What decides among how many blocks keys are divided; see `runtime.sized.device_attention`."""
    device = DEVICES[target.archs[0]]

    def rates(width: int, queries: int) -> dict[str, float]:
        return attention_cost.rates(_params(Attention(width, width, 1.0), queries, half, target, masked=True), device)

    blocks = {str(width): [rates(width, queries) for queries in QUERIES] for width in sorted(widths)}
    return {"queries": list(QUERIES), "blocks": blocks, "multiprocessors": device.multiprocessors,
            "bytes_per_s": device.memory_bytes_per_s, "kept_bytes_per_s": KEPT_BYTES_PER_S, "next_s": NEXT_S}


def _params(attention: Attention, queries: int, half: str, target: Target, *, masked: bool) -> AttentionParams:
    """The parameters with a tile for so many queries; the sizes themselves are the run's."""
    own = Projection(attention.width)
    p = AttentionParams(1, attention.width, 1, queries, queries, attention.scale, own, own, own,
                        (1, 1, queries, queries) if masked else None, half)
    reason = reject(p)
    if attention.steps:
        reason = "scores that are rounded to codes"
    elif attention.depth != attention.width:
        reason = f"keys of {attention.depth} features and values of {attention.width}"
    if reason is not None:
        raise UnsupportedOperatorError(f"target '{target.name}' has no attention at sizes that only the run tells for "
                                       f"{reason}; give every dimension a size with dims or shapes, or compile for a "
                                       "cpu")
    return tiled(p, target.archs)
