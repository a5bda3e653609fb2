"""Networks with trained weights, samples to prune them by, and others to judge the result by."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pictures

SQUEEZENET = Path(os.environ.get("SQUEEZENET", "../shared/data/squeezenet_deep_compression.net"))
Case = tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]


def trained(network, example, shape: tuple[int, ...], rate: float) -> Case:
    """A network trained on the digits, the digits that it was trained on, and the others."""
    from sparsec.models.dataset import digits, training_digits
    from sparsec.models.onnx_export import export
    from sparsec.models.training import Batches, trainer

    trainer(Batches.of(training_digits(), shape, 64, 0), epochs=20, lr=rate)(network, lambda *_: None)
    with TemporaryDirectory() as folder:
        export(network, Path(folder) / "m.onnx", (example,))
        proto = onnx.load(Path(folder) / "m.onnx")
    entry = proto.graph.input[0].name
    return proto, *({entry: x.reshape(-1, *shape)} for x, _ in (training_digits(), digits()))


def digits_network(name: str) -> Case:
    """One of the LeNets."""
    from sparsec.models.networks import NETWORKS

    network = NETWORKS[name]
    return trained(network.build(0), network.example(), tuple(network.example().shape[1:]), 0.02)


def transformer() -> Case:
    """Two layers of attention over 16 patches of a digit."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Layer(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
            self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            normal = self.norms[0](x)
            q, k, v = (part(normal).unflatten(2, (self.heads, -1)).transpose(1, 2)
                       for part in (self.query, self.key, self.value))
            x = x + self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return x + self.down(F.relu(self.up(self.norms[1](x))))

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Linear(49, 128), nn.Parameter(torch.randn(16, 128) * 0.1)
            self.layers, self.head = nn.ModuleList([Layer(128, 4) for _ in range(2)]), nn.Linear(128, 10)

        def forward(self, x):
            x = self.embed(x) + self.place
            for layer in self.layers:
                x = layer(x)
            return self.head(x.mean(1))

    torch.manual_seed(0)
    return trained(Transformer(), torch.zeros(1, 16, 49), (16, 49), 0.02)


def squeezenet() -> Case:
    """The authors' compressed SqueezeNet with the crops of some pictures, and of others."""
    from sparsec.models import squeezenet as read

    return read(SQUEEZENET), *({"data": pictures.crops(names, number, 227)} for names, number in (
        (pictures.CALIBRATION, 64), (pictures.HELD_OUT, 300)))


CASES = {"lenet300": lambda: digits_network("lenet300"), "lenet5": lambda: digits_network("lenet5"),
         "transformer": transformer, "squeezenet": squeezenet}
