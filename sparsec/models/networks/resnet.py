"""ResNet-18 for small pictures and ResNet-50 for ImageNet (He et al. 2016)."""

from __future__ import annotations

import torch
from torch import nn


def normalised(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, and its batch normalisation."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Residual(nn.Module):
    """relu(body(x) + shortcut(x))."""

    def __init__(self, body: list[nn.Module], shortcut: list[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> (n, channels', h', w')."""
        return torch.relu(self.body(x) + self.shortcut(x))


def basic(inputs: int, width: int, stride: int) -> Residual:
    """Two 3 x 3 convolutions."""
    body = [*normalised(inputs, width, 3, stride), nn.ReLU(), *normalised(width, width, 3)]
    return Residual(body, [] if stride == 1 and inputs == width else normalised(inputs, width, 1, stride))


def bottleneck(inputs: int, width: int, stride: int) -> Residual:
    """1 x 1, 3 x 3 and 1 x 1 convolutions; the last is four times as wide."""
    body = [
        *normalised(inputs, width, 1), nn.ReLU(),
        *normalised(width, width, 3, stride), nn.ReLU(),
        *normalised(width, 4 * width, 1),
    ]  # fmt: skip
    return Residual(body, [] if stride == 1 and inputs == 4 * width else normalised(inputs, 4 * width, 1, stride))


def resnet18(classes: int = 200) -> nn.Module:
    """Four stages of two basic blocks behind a 3 x 3 stem without pooling, (n, 3, h, w) -> (n, classes)."""
    layers = [*normalised(3, 64, 3), nn.ReLU()]
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        layers += [basic(channels, width, 1 if stage == 0 else 2), basic(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet50(classes: int = 1000) -> nn.Module:
    """Four stages of 3, 4, 6 and 3 bottlenecks, (n, 3, h, w) -> (n, classes)."""
    layers = [*normalised(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(depth):
            layers.append(bottleneck(channels, width, 2 if stage > 0 and block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
