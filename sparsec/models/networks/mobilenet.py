"""MobileNetV2 for ImageNet (Sandler et al. 2018)."""

from __future__ import annotations

import torch
from torch import nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of every stage (their table 2)."""


def normalised(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, batch normalisation and ReLU6."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    ]


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; a shortcut where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = normalised(inputs, width, 1) if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *normalised(width, width, 3, stride, groups=width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, h, w) -> (n, outputs, h', w')."""
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilenetv2(classes: int = 1000) -> nn.Module:
    """17 inverted residual blocks, (n, 3, h, w) -> (n, classes)."""
    layers = normalised(3, 32, 3, 2)
    channels = 32
    for expansion, width, blocks, stride in STAGES:
        for block in range(blocks):
            layers.append(InvertedResidual(channels, width, expansion, stride if block == 0 else 1))
            channels = width
    layers += [*normalised(channels, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, classes))
