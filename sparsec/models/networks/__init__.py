"""The reference networks in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sparsec.errors import UsageError, meant
from sparsec.models.masks import LAYERS, prunable
from sparsec.models.networks.bert import bert
from sparsec.models.networks.lenet import lenet5, lenet300, lenet300_bn
from sparsec.models.networks.mobilenet import mobilenetv2
from sparsec.models.networks.resnet import resnet18, resnet50
from sparsec.models.networks.vgg import vgg16, vgg19


@dataclass(frozen=True)
class Network:
    """How to build a network; `shape` is that of one input, without the batch, `rate` the learning rate it bears."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    digits: bool = False  # whether scikit-learn's digits fit its input
    rate: float = 0.1

    def build(self, seed: int) -> nn.Module:
        """The network in inference mode, with Kaiming normal weights from `seed` and no biases yet (He et al. 2015)."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.make()
            for weight in prunable(model).values():
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            for module in model.modules():
                if isinstance(module, LAYERS) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        return model.eval()

    def example(self, batch: int = 1) -> torch.Tensor:
        """An input of ones, (batch, *shape)."""
        return torch.ones(batch, *self.shape, dtype=self.dtype)


NETWORKS = {
    "lenet300": Network(lenet300, (784,), digits=True),
    "lenet300-bn": Network(lenet300_bn, (784,), digits=True),
    "lenet5": Network(lenet5, (1, 28, 28), digits=True, rate=0.05),
    "vgg16": Network(vgg16, (3, 32, 32)),
    "vgg19": Network(vgg19, (3, 32, 32)),
    "resnet18": Network(resnet18, (3, 64, 64)),
    "resnet50": Network(resnet50, (3, 224, 224)),
    "mobilenetv2": Network(mobilenetv2, (3, 224, 224)),
    "bert": Network(bert, (128,), dtype=torch.int64),
}


def network(name: str) -> Network:
    """Look up a reference network. Raises UsageError that lists the known names."""
    if name not in NETWORKS:
        raise UsageError(f"unknown network '{name}': {meant(name, NETWORKS)}choose from {', '.join(NETWORKS)}")
    return NETWORKS[name]
