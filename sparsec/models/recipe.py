"""Build, train, prune and train again: one reference network from names and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from sparsec.errors import UsageError
from sparsec.models.criteria import criterion
from sparsec.models.dataset import Digits, digits, training_digits
from sparsec.models.networks import Network, network
from sparsec.models.pruning import Options, Pruned, prune
from sparsec.models.schedules import schedule
from sparsec.models.schedules.task import Progress
from sparsec.models.seeds import draw
from sparsec.models.training import Batches, accuracy, trainer

BATCH = 64
CALIBRATION = 512  # examples that a criterion looks at


@dataclass(frozen=True)
class Recipe:
    """What to make.

    Attributes:
        network: a key of `NETWORKS`.
        sparsity: target, direct or effective; None with an N:M pattern.
        options: criterion, pattern, quota and schedule.
        epochs: of every training; 0 trains nothing.
        data: training inputs (n, *shape) and labels (n,); None for scikit-learn's digits where they fit, else no data.
        seed: of the weights, the batches and all random choices.

    """

    network: str
    sparsity: float | None
    options: Options = field(default_factory=Options)
    epochs: int = 60
    data: Digits | None = None
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """A pruned network; the accuracies are on the held-out digits, None where it was not trained on the others."""

    model: nn.Module
    pruned: Pruned
    dense_accuracy: float | None
    accuracy: float | None


def make(recipe: Recipe, progress: Progress = lambda *_: None) -> Outcome:
    """Follow a recipe.

    A criterion of trained weights gets a trained network, the others one at initialisation; what is left is trained.
    Raises UsageError for unknown names and data that do not fit, and what `prune` raises.
    """
    kind = network(recipe.network)
    arrays = _training_data(recipe, kind)
    calibration = train = None
    if arrays is not None:
        batches = Batches.of(arrays, kind.shape, BATCH, recipe.seed)
        calibration = [next(iter(Batches.of(arrays, kind.shape, CALIBRATION, recipe.seed)))]
        train = trainer(batches, epochs=recipe.epochs, lr=kind.rate) if recipe.epochs else None
    model = kind.build(recipe.seed)
    if schedule(recipe.options.schedule).seeded:
        draw(model, recipe.seed)
    dense_accuracy = None
    pretrained = criterion(recipe.options.ranked_by).trained and schedule(recipe.options.schedule).pretrained
    if train and pretrained:
        train(model, lambda done, total: progress("dense training", done, total))
        dense_accuracy = _held_out_accuracy(model, kind, recipe)
        train = trainer(batches, epochs=recipe.epochs, lr=kind.rate / 2)
    pruned = prune(
        model, recipe.sparsity, kind.example(), recipe.options,
        data=calibration, train=train, seed=recipe.seed, progress=progress,
    )  # fmt: skip
    return Outcome(model, pruned, dense_accuracy, _held_out_accuracy(model, kind, recipe) if train else None)


def _training_data(recipe: Recipe, kind: Network) -> Digits | None:
    if recipe.data is None:
        return training_digits() if kind.digits else None
    inputs, labels = recipe.data
    if inputs.shape[1:] != kind.shape or len(inputs) != len(labels):
        raise UsageError(
            f"data of shapes {inputs.shape} and {labels.shape} do not fit '{recipe.network}': "
            f"it takes inputs (n, {', '.join(map(str, kind.shape))}) and labels (n,)"
        )
    return recipe.data


def _held_out_accuracy(model: nn.Module, kind: Network, recipe: Recipe) -> float | None:
    if recipe.data is not None or not kind.digits:
        return None
    inputs, labels = (torch.from_numpy(array) for array in digits())
    return accuracy(model, inputs.reshape(-1, *kind.shape), labels)


