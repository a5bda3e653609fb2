"""Effective against direct compression, and accuracy against both, of the LeNets on scikit-learn's digits.

The experiments behind the figures of Vysogorets & Kempe (2023): prune, go back to the initial weights, train.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from sparsec.errors import CollapseError, PruningError
from sparsec.models.criteria import criterion
from sparsec.models.dataset import digits, training_digits
from sparsec.models.masks import apply_masks
from sparsec.models.networks import network
from sparsec.models.pruning import Options, Pruned, prune
from sparsec.models.schedules import schedule
from sparsec.models.schedules.task import Progress
from sparsec.models.seeds import draw
from sparsec.models.training import Batches, accuracy, trainer

METHODS = {
    "random": Options("random"),
    "random, IGQ": Options("random", quota="igq"),
    "magnitude": Options("magnitude"),
    "LAMP": Options("lamp"),
    "SNIP": Options("snip"),
    "iterative SNIP": Options("snip-iterative"),
    "GraSP": Options("grasp"),
    "SynFlow": Options("synflow"),
    "random, Smart-Ratio": Options("random", quota="smart-ratio"),
    "movement": Options(schedule="movement"),
    "L0": Options(schedule="l0"),
    "APoZ": Options("apoz"),
    "geometric median": Options("geometric-median"),
    "FORCE": Options("force"),
    "ProsPr": Options("prospr"),
    "PHEW": Options("phew"),
    "WoodFisher": Options("woodfisher"),
    "random, as SNIP": Options("random", quota="as:snip"),
    "ThiNet": Options("thinet"),
    "similar units": Options("similar-units"),
    "SET": Options(schedule="set"),
    "RigL": Options(schedule="rigl"),
    "ITOP": Options(schedule="itop"),
    "DeepR": Options(schedule="deepr"),
    "DSR": Options(schedule="dsr"),
    "SNFS": Options(schedule="snfs"),
    "Top-KAST": Options(schedule="top-kast"),
    "variational dropout": Options(schedule="variational-dropout"),
    "L1": Options(schedule="lasso"),
    "L2": Options(schedule="ridge"),
    "group lasso": Options(schedule="group-lasso"),
    "edge-popup": Options(schedule="edge-popup"),
    "trained signs": Options(schedule="signs"),
    "FreezeNet": Options(schedule="freeze"),
    "EigenDamage": Options(schedule="eigendamage"),
    "OBS": Options("obs"),
    "OBD": Options("obd"),
    "Taylor": Options("taylor"),
    "random, as GraSP": Options("random", quota="as:grasp"),
    "random, as SynFlow": Options("random", quota="as:synflow"),
    "random, uniform": Options("random", quota="uniform"),
    "random, uniform+": Options("random", quota="uniform+"),
    "random, ERK": Options("random", quota="erk"),
    "magnitude, uniform": Options("magnitude", quota="uniform"),
    "magnitude, uniform+": Options("magnitude", quota="uniform+"),
    "magnitude, ERK": Options("magnitude", quota="erk"),
    "magnitude, IGQ": Options("magnitude", quota="igq"),
}
"""By the names in the plots. A schedule other than one-shot trains while it prunes, and only its masks are used, but
for edge-popup, trained signs and FreezeNet, which keep random weights, and EigenDamage, whose masks are those of
another basis. Whole neurons are those of all layers but the
last, and so are their compressions."""
ALL = tuple(METHODS)
COMPRESSIONS = tuple(10 ** (exponent / 3) for exponent in range(1, 14))  # 2 to 20,000
QUICK_METHODS = ("random", "LAMP", "SynFlow")
QUICK_COMPRESSIONS = (10.0, 100.0, 1000.0)
CALIBRATION = 512
NETWORK = "lenet300-bn"


@dataclass(frozen=True)
class Plan:
    """Which experiments to run; `epochs` is the length of every training, `network` a key of `NETWORKS`."""

    methods: Sequence[str] = ALL
    compressions: Sequence[float] = COMPRESSIONS
    seeds: Sequence[int] = (0, 1, 2)
    epochs: int = 40
    network: str = NETWORK


QUICK = Plan(QUICK_METHODS, QUICK_COMPRESSIONS, seeds=(0,), epochs=10)


@dataclass(frozen=True)
class Point:
    """One pruned network: compressions (dense weights over what is left) and accuracy on the held-out digits."""

    method: str
    seed: int
    direct: float
    effective: float
    accuracy: float


def run(plan: Plan, progress: Progress = lambda *_: None) -> tuple[float, list[Point]]:
    """The mean accuracy of the dense network over the seeds, and a point for every network that stays connected."""
    dense: list[float] = []
    points: list[Point] = []
    total = len(plan.seeds) * len(plan.methods) * len(plan.compressions)
    for number, seed in enumerate(plan.seeds):
        start = Start.of(plan.network, plan.epochs, seed)
        dense.append(held_out(start.trained, plan.network))
        jobs = [(method, compression) for method in plan.methods for compression in plan.compressions]
        for done, (method, compression) in enumerate(jobs, start=1):
            points += _points(method, compression, start)
            progress(method, number * len(jobs) + done, total)
    return sum(dense) / len(dense), points


def run_part(method: str, compressions: Sequence[float], seed: int, epochs: int, name: str = NETWORK) -> dict[str, Any]:
    """What `run` gives of one method and seed, as JSON: its experiments are the same alone."""
    dense, points = run(Plan((method,), compressions, (seed,), epochs, name))
    return {"dense": dense, "points": [asdict(point) for point in points]}


@dataclass(frozen=True)
class Start:
    """A network as a seed draws it, and trained for so many epochs."""

    network: str
    epochs: int
    seed: int
    initial: nn.Module
    trained: nn.Module

    @classmethod
    def of(cls, name: str, epochs: int, seed: int) -> Start:
        """Draw it and train it."""
        initial = network(name).build(seed)
        return cls(name, epochs, seed, initial, fitted(initial, {}, name, epochs, seed))

    def pruned(self, options: Options, sparsity: float) -> tuple[nn.Module, Pruned]:
        """A copy pruned, the trained one where the criterion asks for that.

        Raises:
            CollapseError: every path is cut.

        """
        model = copy.deepcopy(self.trained if criterion(options.ranked_by).trained else self.initial)
        if schedule(options.schedule).seeded:
            draw(model, self.seed)
        kind = network(self.network)
        data = [next(iter(Batches.of(training_digits(), kind.shape, CALIBRATION, self.seed)))]
        learns = Options().schedule != options.schedule
        batches = Batches.of(training_digits(), kind.shape, 64, self.seed)
        return model, prune(model, sparsity, kind.example(), options, data=data, seed=self.seed,
                            train=trainer(batches, epochs=self.epochs, lr=kind.rate) if learns else None)


def _points(method: str, compression: float, start: Start) -> Iterable[Point]:
    """The point of one experiment, or nothing where pruning cuts every path."""
    options = METHODS[method]
    try:
        model, pruned = start.pruned(options, 1 - 1 / compression)
    except (CollapseError, PruningError):  # or a quota that leaves more than was asked for
        return []
    final = schedule(options.schedule).final
    result = model if final else fitted(start.initial, pruned.masks, start.network, start.epochs, start.seed)
    ratios = 1 / (1 - pruned.sparsity), 1 / (1 - pruned.effective_sparsity)
    return [Point(method, start.seed, *ratios, held_out(result, start.network))]


def fitted(initial: nn.Module, masks: dict[str, torch.Tensor], name: str, epochs: int, seed: int) -> nn.Module:
    """A copy of a network trained on the digits, with masks from the start."""
    model = copy.deepcopy(initial)
    apply_masks(model, masks)
    batches = Batches.of(training_digits(), network(name).shape, 64, seed)
    trainer(batches, epochs=epochs, lr=network(name).rate)(model, lambda *_: apply_masks(model, masks))
    return model


def held_out(model: nn.Module, name: str) -> float:
    """The accuracy on the held-out digits."""
    inputs, labels = (torch.from_numpy(array) for array in digits())
    return accuracy(model, inputs.reshape(-1, *network(name).shape), labels)
