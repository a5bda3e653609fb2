"""The kernels between the stages of a model for run-time sizes: attention, rotations, windows of images, recurrences,
scales of dynamic quantisation, and copies of what lies otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import onnx_ir as ir

from sparsec.backends.cuda import attention_cost, computed, recurrences
from sparsec.backends.cuda.build import build_kernels
from sparsec.backends.program import Function, Later
from sparsec.cost.gpu import DEVICES, KEPT_BYTES_PER_S, NEXT_S
from sparsec.graph.sized import Attention, Computed
from sparsec.kernels.cuda import (
    attention_parts,
    key_lists,
    sized_attention,
    sized_copy,
    sized_levels,
    sized_rotary,
    sized_windows,
)
from sparsec.kernels.cuda.attention_params import AttentionParams, reject, tiled, unit
from sparsec.kernels.cuda.key_lists import ListParams
from sparsec.kernels.emit.projection import Projection
from sparsec.target import Target

BITS = ("uint8", "uint16", "uint32", "uint64")
"""As which what is not converted is copied, by its size."""
QUERIES = (16, 64)
"""Queries of a block: those for the fewest, as in decoding, and for many."""


@dataclass(frozen=True)
class Wanted:
    """The kernels of a plan, as `Backend.build_sized_kernels` is asked for them."""

    attentions: Sequence[Attention]
    rotations: Sequence[tuple[int, bool]]
    windows: Sequence[str] = ()
    recurrences: Sequence[ir.Node] = ()
    computed: Sequence[Computed] = ()
    levels: bool = False
    caches: bool = False


def build(wanted: Wanted, target: Target, half: str, *,
          overlap: bool = False) -> tuple[Later, Mapping[str, object]]:
    """The library, and what calls of attention are told: the queries of the kernels' blocks, and what these take.

    Where there are caches, there are kernels that append to them, and attention of as many keys as these have.
    """
    attentions, rotations, caches, floats = wanted.attentions, wanted.rotations, wanted.caches, (half, "float32")
    kernels = {f"copy_{source}_{to}": sized_copy.build(source, to) for source, to in (floats, floats[::-1])}
    kernels |= {f"copy_{bits}": sized_copy.build(bits, bits) for bits in BITS}
    kernels |= {f"append_{source}": sized_copy.build(source, half, behind=True) for source in floats if caches}
    kernels |= {f"rotary{number}": sized_rotary.build(depth, half, both=both)
                for number, (depth, both) in enumerate(rotations)}
    kernels |= {f"windows_{kind}": sized_windows.build(kind, half) for kind in wanted.windows}
    kernels |= {f"levels_{each}": sized_levels.build(each) for each in floats if wanted.levels}
    kernels |= {each.name: computed.build(each) for each in wanted.computed}
    steps = [recurrences.build(each) for each in wanted.recurrences]
    kernels |= {f"recurrence{number}": kernel for number, (kernel, _) in enumerate(steps)}
    for number, each in enumerate(attentions):
        masks = (False, True) if each.masked is None else (each.masked,)
        for queries, masked, grown in product(QUERIES, masks, (False, True)[:1 + caches]):
            p = _params(each, queries, half, target, masked=masked)
            name = f"attention{number}_{queries}" + "_masked" * masked + "_grown" * grown
            kernels[name] = sized_attention.build(p, grown=grown)
            if masked:
                lists = f"lists_{p.tile.queries}_{p.tile.keys}" + "_grown" * grown
                kernels[lists] = key_lists.build_sized(ListParams(p.tile.queries, p.tile.keys), grown=grown)
            kernels[f"combine{number}" + "_masked" * masked] = attention_parts.build(p.width, half, unit(masked=masked))
    functions = tuple(Function(f"recurrence{number}", constants) for number, (_, constants) in enumerate(steps))
    built = build_kernels(kernels, target, overlap=overlap)
    return (lambda: replace(built(), functions=functions),
            _told({each.width for each in attentions}, half, target))


def _told(widths: Collection[int], half: str, target: Target) -> dict[str, object]:
    """What decides among how many blocks keys are divided; see `runtime.sized.device_attention`."""
    device = DEVICES[target.archs[0]]

    def rates(width: int, queries: int) -> dict[str, float]:
        return attention_cost.rates(_params(Attention(width, width, 1.0), queries, half, target, masked=True), device)

    blocks = {str(width): [rates(width, queries) for queries in QUERIES] for width in sorted(widths)}
    return {"queries": list(QUERIES), "blocks": blocks, "multiprocessors": device.multiprocessors,
            "bytes_per_s": device.memory_bytes_per_s, "kept_bytes_per_s": KEPT_BYTES_PER_S, "next_s": NEXT_S}


def rejected(attention: Attention, half: str) -> str | None:
    """Why there is no kernel for an attention, or None."""
    if attention.steps:
        return "its scores are rounded to codes"
    if attention.depth != attention.width:
        return f"it has keys of {attention.depth} features and values of {attention.width}"
    return reject(_sized(attention, QUERIES[0], half, masked=True))


def _params(attention: Attention, queries: int, half: str, target: Target, *, masked: bool) -> AttentionParams:
    """The parameters with a tile for so many queries; the sizes themselves are the run's."""
    return tiled(_sized(attention, queries, half, masked=masked), target.archs)


def _sized(attention: Attention, queries: int, half: str, *, masked: bool) -> AttentionParams:
    own = Projection(attention.width)
    return AttentionParams(1, attention.width, 1, queries, queries, attention.scale, own, own, own,
                           (1, 1, queries, queries) if masked else None, half)
