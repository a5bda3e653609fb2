"""Plain supervised training: enough for the reference networks, replaceable by a training loop of your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from sparsec.models.dataset import Digits

Batch = tuple[torch.Tensor, torch.Tensor]
Data = Iterable[Batch]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Hook = Callable[[int, int], None]
Train = Callable[[nn.Module, Hook], None]
"""A training loop: trains the model in place and calls the hook with (steps done, steps in total) after every step."""


@dataclass(frozen=True)
class Batches:
    """Shuffled mini-batches of (inputs, labels); every pass over the object is a new epoch."""

    inputs: torch.Tensor
    labels: torch.Tensor
    batch: int
    generator: torch.Generator

    @classmethod
    def of(cls, arrays: Digits, shape: tuple[int, ...], batch: int, seed: int) -> Batches:
        """Mini-batches of numpy inputs, reshaped to (n, *shape), and labels."""
        inputs, labels = arrays
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.from_numpy(inputs).reshape(-1, *shape), torch.from_numpy(labels), batch, generator)

    def __len__(self) -> int:
        return math.ceil(len(self.inputs) / self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for rows in torch.randperm(len(self.inputs), generator=self.generator).split(self.batch):
            yield self.inputs[rows], self.labels[rows]


@dataclass(frozen=True)
class Teacher:
    """A model whose outputs a smaller one learns to give, too (Hinton et al. 2015).

    Attributes:
        model: the dense one, not changed.
        share: of the loss that is the distance from its outputs.
        temperature: what logits are divided by before their softmax.

    """

    model: nn.Module
    share: float = 0.5
    temperature: float = 2.0

    def loss(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The divergence of the softened classes, times the squared temperature, over a batch."""
        self.model.eval()
        with torch.no_grad():
            wanted = F.log_softmax(self.model(inputs) / self.temperature, dim=-1)
        found = F.log_softmax(output / self.temperature, dim=-1)
        return self.temperature**2 * F.kl_div(found, wanted, log_target=True, reduction="batchmean")


def trainer(
    data: Batches, *, epochs: int, lr: float = 0.1, weight_decay: float = 5e-4, loss: Loss = F.cross_entropy,
    teacher: Teacher | None = None,
) -> Train:
    """A training loop: SGD with momentum 0.9 and a cosine learning rate over `epochs`; distils from `teacher`."""

    def distance(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        output = model(inputs)
        if teacher is None:
            return loss(output, labels)
        return (1 - teacher.share) * loss(output, labels) + teacher.share * teacher.loss(inputs, output)

    def train(model: nn.Module, hook: Hook) -> None:
        total = epochs * len(data)
        optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
        model.train()
        step = 0
        for _ in range(epochs):
            for inputs, labels in data:
                optimiser.zero_grad()
                distance(model, inputs, labels).backward()
                optimiser.step()
                rate.step()
                step += 1
                hook(step, total)
        model.eval()

    return train


def accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Fraction of `inputs` (n, ...) that the model classifies as `labels` (n,)."""
    model.eval()
    with torch.no_grad():
        return float((model(inputs).argmax(1) == labels).float().mean())
