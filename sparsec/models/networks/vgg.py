"""VGG-16 and VGG-19 for 32 x 32 pictures: batch normalisation and one fully connected layer (Simonyan & Zisserman 2015;
the form of Vysogorets & Kempe 2023, appendix A).
"""

from __future__ import annotations

from torch import nn

WIDTHS = (64, 128, 256, 512, 512)


def vgg(depths: tuple[int, ...], classes: int) -> nn.Module:
    """Stages of `depths` convolutions, each stage followed by 2 x 2 pooling; (n, 3, 32, 32) -> (n, classes)."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in zip(WIDTHS, depths, strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))


def vgg16(classes: int = 10) -> nn.Module:
    """13 convolutions and one fully connected layer."""
    return vgg((2, 2, 3, 3, 3), classes)


def vgg19(classes: int = 100) -> nn.Module:
    """16 convolutions and one fully connected layer."""
    return vgg((2, 2, 4, 4, 4), classes)
