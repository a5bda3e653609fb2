"""Prune a PyTorch model: criterion, pattern, quota and schedule by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from sparsec.errors import PruningError, UsageError
from sparsec.models.connectivity import active, check_connected
from sparsec.models.criteria import Criterion, criterion
from sparsec.models.criteria.context import Context
from sparsec.models.masks import Masks, apply_masks, dense_masks, kept, prunable, size
from sparsec.models.patterns import Pattern, pattern
from sparsec.models.quotas import Quota
from sparsec.models.ranking import masks_at, masks_at_effective, rank
from sparsec.models.schedules import SCHEDULES, schedule
from sparsec.models.schedules.task import REWIND, Choose, Progress, Task
from sparsec.models.training import Data, Loss, Train


@dataclass(frozen=True)
class Pruned:
    """The masks of a pruned model, and which of the kept weights are on a path from an input to an output.

    Of a frozen network, both are the weights that are trained.
    """

    masks: Masks
    active: Masks

    @property
    def sparsity(self) -> float:
        """Direct sparsity."""
        return 1 - kept(self.masks) / size(self.masks)

    @property
    def effective_sparsity(self) -> float:
        """Fraction of the weights that are inactive."""
        return 1 - kept(self.active) / size(self.masks)


AS = "as:"
"""Before the name of a criterion, the quota that its own masks have."""


@dataclass(frozen=True)
class Options:
    """How to prune; the names are the keys of the registries.

    Attributes:
        criterion: which weights matter; None for the schedule's usual one, mostly magnitude.
        pattern: which go together: unstructured, filters, heads, RxC, N:M; None for the usual one.
        quota: uniform, uniform+, erk, igq, smart-ratio, global to compare all layers, or `as:CRITERION` for what that
            criterion leaves of every layer where it compares all; None for the usual one.
        schedule: when to prune and when to train.
        rounds: steps to the target; None for the criterion's and the schedule's usual number.
        effective: whether the target is an effective sparsity.
        tolerance: how far from an effective target the density may end, as a fraction of it.
        keep: shell patterns of the parameters that stay dense.
        rewind: the share of the first training that schedule `imp` goes back to; 0 for the initial weights.

    """

    criterion: str | None = None
    pattern: str | None = None
    quota: str | None = None
    schedule: str = "one-shot"
    rounds: int | None = None
    effective: bool = False
    tolerance: float = 0.01
    keep: Sequence[str] = ()
    rewind: float = REWIND

    @property
    def ranked_by(self) -> str:
        """The criterion's name. Raises UsageError where the schedule is unknown."""
        return self.criterion or schedule(self.schedule).criterion

    @property
    def grouped_by(self) -> str:
        """The pattern's name. Raises UsageError where the criterion or the schedule is unknown."""
        return self.pattern or schedule(self.schedule).pattern or criterion(self.ranked_by).pattern


def prune(
    model: nn.Module,
    sparsity: float | None,
    inputs: torch.Tensor | tuple[torch.Tensor, ...],
    options: Options = Options(),
    *,
    data: Data | None = None,
    loss: Loss = F.cross_entropy,
    train: Train | None = None,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Pruned:
    """Prune a model in place; its pruned weights are zero afterwards.

    Args:
        model: any module whose operations `sparsec.models.linear_forms` knows.
        sparsity: target of 0 ... 1 over the weights of the layers that criterion and pattern cover; None with N:M.
        inputs: one example input, or all of them, batch included; only shapes matter.
        options: criterion, pattern, quota and schedule.
        data: batches of (inputs, targets) for criteria that need them, iterated over repeatedly.
        loss: of the model's output and the targets.
        train: trains the model and calls a hook after every step, such as `sparsec.models.training.trainer`.
        seed: of all random choices but those of `train`.
        progress: called with what is being done, and how many steps of how many are.

    Raises:
        UsageError: an unknown name, or a sparsity that is missing or outside 0 ... 1.
        PruningError: data or training is missing, or a quota or target is out of reach.
        CollapseError: every path is cut.

    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    how, when = criterion(options.ranked_by), schedule(options.schedule)
    shape = pattern(options.grouped_by)
    target = _target(sparsity, shape, options)
    if how.needs_data and data is None:
        raise PruningError(f"criterion '{options.ranked_by}' needs data: pass `data`, or --data to `sparsec prune`")
    weights = prunable(model)
    if shape.hidden:
        weights.popitem()  # the last layer's outputs are the model's own
    weights = {name: weight for name, weight in weights.items() if name in prunable(model, options.keep)}
    generator = torch.Generator().manual_seed(seed)
    start = Context(model, weights, dense_masks(weights), inputs, data or (), loss, generator)
    task = Task(
        model, start.masks, target, _chooser(start, how, shape, options, target), options.rounds, how.rounds, train,
        generator, progress, options.rewind, data or (), loss,
    )  # fmt: skip
    masks = when.run(task)
    if not when.zeros:
        return Pruned(masks, masks)
    result = Pruned(masks, active(model, masks, inputs))
    check_connected(masks, result.active, f"criterion '{options.ranked_by}' at sparsity {target}")
    return result


def _target(sparsity: float | None, shape: Pattern, options: Options) -> float:
    when = schedule(options.schedule)
    if options.effective and (shape.choose is not None or not when.effective):
        unable = ", ".join(name for name, each in SCHEDULES.items() if not each.effective)
        raise UsageError(f"an effective target needs a pattern and a schedule that can meet any: not N:M, {unable}")
    if when.single and options.grouped_by != "unstructured":
        raise UsageError(f"schedule '{options.schedule}' prunes single weights; pattern "
                         f"'{options.grouped_by}' needs another, such as gradual")
    if not 0 <= options.rewind < 1:
        raise UsageError(f"rewind is a share of the training, at least 0 and below 1, not {options.rewind}")
    if shape.sparsity is not None:
        if sparsity not in {None, shape.sparsity}:
            raise UsageError(f"pattern '{options.pattern}' fixes the sparsity at {shape.sparsity}, not {sparsity}")
        return shape.sparsity
    if sparsity is None or not 0 <= sparsity < 1:
        raise UsageError(f"sparsity must be at least 0 and below 1, not {sparsity}")
    return sparsity


def _chooser(start: Context, how: Criterion, shape: Pattern, options: Options, target: float) -> Choose:
    quota = _quota(start, shape, options, how)
    initial = {name: weight.detach().clone() for name, weight in start.weights.items()} if how.revives else {}

    def reachable(masks: Masks) -> Masks:
        return active(start.model, masks, start.inputs)

    def choose(masks: Masks, sparsity: float, *, last: bool = False) -> Masks:
        context = Context(start.model, start.weights, masks, start.inputs, start.data, start.loss, start.generator,
                          initial)
        scores = how.score(context)
        if shape.choose is not None:
            chosen = {name: shape.choose(score) for name, score in scores.items()}
        else:
            ranking = rank(start.model, scores, start.masks if how.revives else masks, shape, quota)
            chosen = masks_at(ranking, sparsity)
            if options.effective and (last or kept(reachable(chosen)) < (1 - target) * size(chosen)):
                tolerance = options.tolerance if last else math.inf
                chosen = masks_at_effective(ranking, sparsity, reachable, tolerance)
        with torch.no_grad():
            for name, weight in initial.items():
                start.weights[name].copy_(weight)
        if how.compensate is not None:
            how.compensate(context, chosen)
        apply_masks(start.model, chosen)
        return chosen

    return choose


def _quota(start: Context, shape: Pattern, options: Options, how: Criterion) -> str | Quota | None:
    """The layer-wise quota: a name, a rule, or None to compare all layers."""
    usual = options.quota or schedule(options.schedule).quota or how.quota or shape.quota
    if usual is None or not usual.startswith(AS):
        return None if usual == "global" else usual
    other = Options(usual.removeprefix(AS), quota="global")
    if shape is not pattern("unstructured") or criterion(other.ranked_by).pattern != "unstructured":
        raise UsageError(f"quota '{usual}' is for single weights, by a criterion of such")

    def shares(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
        del shapes
        keep = [name for name in prunable(start.model) if name not in start.weights]
        result = prune(copy.deepcopy(start.model), sparsity, start.inputs, replace(other, keep=keep), data=start.data,
                       loss=start.loss)
        return [1 - float(mask.float().mean()) for mask in result.masks.values()]

    return shares
