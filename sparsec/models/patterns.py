"""Sparsity patterns: which weights are removed together.

A pattern sees a weight as the matrix (out, in * kh * kw) of its GEMM, N:M as (out, kh * kw * in). Scores are pooled to
groups, groups are kept or removed, and the choice is expanded to a mask.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from sparsec.errors import PruningError, UsageError, meant
from sparsec.formats.nm import best_of_groups, columns

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Pattern:
    """How weights are grouped.

    Attributes:
        pool: scores of a weight -> summed scores of its groups (groups,).
        expand: kept groups (groups,) and the weight's shape -> mask.
        join: a tensor per weight -> a tensor per unit that is grouped as a whole; most patterns group every weight.
        split: the inverse of `join`.
        quota: the usual layer-wise quota where the criterion has none; sums over groups of unlike sizes do not compare.
        hidden: whether whole outputs are removed, which leaves out the layer that makes the model's own.
        choose: for a pattern that fixes the sparsity, scores of a weight -> mask; `sparsity` is then its value.

    """

    pool: Callable[[torch.Tensor], torch.Tensor]
    expand: Callable[[torch.Tensor, torch.Size], torch.Tensor]
    join: Callable[[nn.Module, Tensors], Tensors] = lambda _, tensors: tensors
    split: Callable[[nn.Module, Tensors], Tensors] = lambda _, tensors: tensors
    quota: str | None = None
    hidden: bool = False
    choose: Callable[[torch.Tensor], torch.Tensor] | None = None
    sparsity: float | None = None


def pattern(text: str) -> Pattern:
    """A pattern by name: `unstructured`, `filters` (neurons of a fully connected layer), `heads`, `4x1` (rows x columns
    of the matrix) or `2:4` (N kept of every M along the inputs).

    Raises UsageError for anything else.
    """
    if text in PATTERNS:
        return PATTERNS[text]
    if block := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
        return _blocks(int(block[1]), int(block[2]))
    if (ratio := re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)) and int(ratio[1]) < int(ratio[2]):
        return _n_of_m(int(ratio[1]), int(ratio[2]))
    raise UsageError(f"unknown pattern '{text}': {meant(text, PATTERNS)}choose from "
                     f"{', '.join(PATTERNS)}, RxC (4x1) and N:M (2:4)")


def _filter_scores(scores: torch.Tensor) -> torch.Tensor:
    return scores.flatten(1).sum(1)


def _whole_filters(kept: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return kept.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


def _blocks(rows: int, columns: int) -> Pattern:
    """Blocks of the matrix; those at its lower and right edge may be smaller."""

    def pool(scores: torch.Tensor) -> torch.Tensor:
        matrix = scores.flatten(1)
        bottom, right = -matrix.shape[0] % rows, -matrix.shape[1] % columns
        tiles = F.pad(matrix, (0, right, 0, bottom)).unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        return tiles.sum((1, 3)).flatten()

    def expand(kept: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        height, width = shape[0], math.prod(shape[1:])
        tiles = kept.reshape(-(-height // rows), -(-width // columns))
        matrix = tiles.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return matrix[:height, :width].reshape(shape)

    return Pattern(pool, expand)


def _n_of_m(n: int, m: int) -> Pattern:
    """The N best of every M inputs, of a convolution channels at one place of the kernel (see `sparsec.formats.nm`).

    A layer whose inputs M does not divide stays dense.
    """

    def choose(scores: torch.Tensor) -> torch.Tensor:
        if scores.shape[1] % m:
            return torch.ones_like(scores, dtype=torch.bool)
        innermost = scores.movedim(1, -1)
        best = best_of_groups(columns(scores.detach().numpy()), n, m)
        return torch.from_numpy(best).reshape(innermost.shape).movedim(-1, 1).contiguous()

    return Pattern(torch.flatten, torch.Tensor.reshape, choose=choose, sparsity=1 - n / m)


def _attentions(model: nn.Module) -> dict[str, nn.Module]:
    parts = ("heads", "query", "key", "value", "output")
    found = {name: m for name, m in model.named_modules() if all(hasattr(m, part) for part in parts)}
    if not found:
        raise PruningError(f"pattern 'heads' needs attention modules with attributes {', '.join(parts)}: none found")
    return found


def _join_heads(model: nn.Module, tensors: Tensors) -> Tensors:
    """A row per head: its rows of the query, key and value weights and its columns of the output weight."""
    joined = {}
    for name, module in _attentions(model).items():
        if all(f"{name}.{part}.weight" in tensors for part in ("query", "key", "value", "output")):
            parts = [tensors[f"{name}.{part}.weight"] for part in ("query", "key", "value")]
            parts.append(tensors[f"{name}.output.weight"].T)
            joined[name] = torch.cat([part.reshape(module.heads, -1) for part in parts], 1)
    return joined


def _split_heads(model: nn.Module, joined: Tensors) -> Tensors:
    tensors: Tensors = {}
    for name, rows in joined.items():
        inputs = model.get_submodule(name).query.in_features
        query, key, value, output = (part.reshape(-1, inputs) for part in rows.chunk(4, dim=1))
        tensors |= {f"{name}.query.weight": query, f"{name}.key.weight": key, f"{name}.value.weight": value}
        tensors[f"{name}.output.weight"] = output.T
    return tensors


PATTERNS = {
    "unstructured": Pattern(torch.flatten, torch.Tensor.reshape),
    "filters": Pattern(_filter_scores, _whole_filters, quota="uniform", hidden=True),
    "heads": Pattern(_filter_scores, _whole_filters, _join_heads, _split_heads, quota="uniform"),
}
