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


def trainer(
    data: Batches, *, epochs: int, lr: float = 0.1, weight_decay: float = 5e-4, loss: Loss = F.cross_entropy
) -> Train:
    """A training loop: SGD with momentum 0.9 and a cosine learning rate over `epochs`."""

    def train(model: nn.Module, hook: Hook) -> None:
        total = epochs * len(data)
        optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
        model.train()
        step = 0
        for _ in range(epochs):
            for inputs, labels in data:
                optimiser.zero_grad()
                loss(model(inputs), labels).backward()
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
