"""LeNet-300-100 and LeNet-5 (LeCun et al. 1998)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet300(classes: int = 10) -> nn.Module:
    """Three fully connected layers, (n, 784) -> (n, classes)."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(784, 300), relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100), relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )  # fmt: skip


def lenet300_bn(classes: int = 10) -> nn.Module:
    """LeNet-300-100 with batch normalisation (Vysogorets & Kempe 2023, appendix A), (n, 784) -> (n, classes)."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(784, 300, bias=False), norm1=nn.BatchNorm1d(300), relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100, bias=False), norm2=nn.BatchNorm1d(100), relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )  # fmt: skip


def lenet5(classes: int = 10, channels: int = 1) -> nn.Module:
    """Two convolutions and three fully connected layers, (n, channels, 28, 28) -> (n, classes)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, 5, padding=2), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2), flatten=nn.Flatten(),
            fc1=nn.Linear(400, 120), relu3=nn.ReLU(), fc2=nn.Linear(120, 84), relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )  # fmt: skip
