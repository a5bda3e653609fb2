"""Small networks to prune, with data and a training loop that costs nothing."""

import torch
from torch import nn

from sparsec.models.networks import Network
from sparsec.models.networks.bert import bert
from sparsec.models.training import Batches, trainer


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip


def chain():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),
                         nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))  # fmt: skip


CHAIN = Network(chain, (3, 8, 8))
IMAGES = Network(convolutional, (3, 8, 8))
TEXT = Network(lambda: bert(2, 16, 4, 30, 8, 4), (8,), torch.int64)


def data(kind, examples=64):
    generator = torch.Generator().manual_seed(0)
    if kind.dtype == torch.int64:
        inputs = torch.randint(0, 30, (examples, *kind.shape), generator=generator)
    else:
        inputs = torch.randn(examples, *kind.shape, generator=generator)
    return [(inputs, torch.arange(examples) % 4)]


def train(kind, epochs=5):
    inputs, labels = data(kind)[0]
    return trainer(Batches(inputs, labels, 8, torch.Generator().manual_seed(0)), epochs=epochs, lr=0.01)
