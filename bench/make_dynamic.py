#!/usr/bin/env python3
"""An encoder and a decoder with run-time sizes, exported to ONNX with PyTorch, for `dynamic.py`.

    python make_dynamic.py OUT_DIR [NAME ...]        e.g. encoder-90 decoder-50 encoder-90-dynamo

NAME is network-PERCENT, the share of every linear layer's weights that are zero, with -dynamo for PyTorch's newer
exporter. The encoder is BERT-base; the decoder is like Llama's (Touvron et al. 2023), of 8 layers of width 1024, with
grouped queries and a cache as Optimum exports it. Weights are random (seeded).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import make_models
import torch
from torch import nn

LAYERS, WIDTH, HEADS, GROUPS, INNER, VOCABULARY = 8, 1024, 16, 4, 2816, 32000
DEPTH = WIDTH // HEADS
SUITE = ["encoder-90", "decoder-50"]


class RootMeanSquare(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def repeated(x):  # (B, groups, N, depth) -> (B, heads, N, depth)
    batch, _, keys, _ = x.shape
    return x[:, :, None].expand(batch, GROUPS, HEADS // GROUPS, keys, DEPTH).reshape(batch, HEADS, keys, DEPTH)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = RootMeanSquare(WIDTH), RootMeanSquare(WIDTH)
        self.q, self.o = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.k, self.v = (nn.Linear(WIDTH, GROUPS * DEPTH, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x, keys, values, cos, sin, mask):
        batch, tokens, _ = x.shape
        y = self.norm1(x)
        q, k, v = (part(y).view(batch, tokens, -1, DEPTH).transpose(1, 2) for part in (self.q, self.k, self.v))
        keys = torch.cat((keys, rotated(k, cos, sin)), 2)
        values = torch.cat((values, v), 2)
        scores = rotated(q, cos, sin) @ repeated(keys).transpose(2, 3) / math.sqrt(DEPTH) + mask
        mixed = (torch.softmax(scores, -1) @ repeated(values)).transpose(1, 2).reshape(batch, tokens, WIDTH)
        x = x + self.o(mixed)
        y = self.norm2(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y)), keys, values


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCABULARY, WIDTH), RootMeanSquare(WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("frequencies", 1.0 / 10000 ** (torch.arange(0, DEPTH, 2) / DEPTH))

    def forward(self, ids, *past):
        tokens, before = ids.shape[1], past[0].shape[2]
        places = torch.arange(before, before + tokens)
        angles = places.float()[:, None] * self.frequencies[None]
        angles = torch.cat((angles, angles), -1)
        mask = torch.where(torch.arange(before + tokens)[None] <= places[:, None], 0.0, -1e9)
        x, caches = self.embedding(ids), []
        for index, layer in enumerate(self.layers):
            x, keys, values = layer(x, past[2 * index], past[2 * index + 1], angles.cos(), angles.sin(), mask)
            caches += [keys, values]
        return (self.head(self.norm(x)), *caches)


def decoder(share: str):
    torch.manual_seed(0)
    net = Decoder().eval()
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear) and name != "head" and share != "0":
            with torch.no_grad():
                module.weight.mul_(make_models.keep_mask(module.weight, share))
    names = [f".{index}.{kind}" for index in range(LAYERS) for kind in ("key", "value")]
    inputs = torch.randint(0, VOCABULARY, (1, 3)), *[torch.randn(1, GROUPS, 5, DEPTH) for _ in names]
    axes = {"input_ids": {0: "batch", 1: "sequence"}, "logits": {0: "batch", 1: "sequence"},
            **{f"past_key_values{name}": {0: "batch", 2: "past"} for name in names},
            **{f"present{name}": {0: "batch", 2: "total"} for name in names}}
    outputs = ["logits", *[f"present{name}" for name in names]]
    return net, inputs, ["input_ids", *[f"past_key_values{name}" for name in names]], outputs, axes


def encoder(share: str):
    net, inputs = make_models.network(f"bert-{share}")
    both = {0: "batch", 1: "sequence"}
    return (net, (inputs[0].repeat(2, 1), inputs[1].repeat(2, 1)), ["input_ids", "attention_mask"], ["output"],
            {"input_ids": both, "attention_mask": both, "output": {0: "batch"}})


NETWORKS = {"encoder": encoder, "decoder": decoder}


def make(name: str, out_dir: Path) -> Path:
    kind, share, *exporter = name.split("-")
    net, inputs, names, outputs, axes = NETWORKS[kind](share)
    path = out_dir / f"{name}.onnx"
    if exporter:
        dims = {each: torch.export.Dim(each) for spec in axes.values() for each in spec.values() if each != "total"}
        shapes = [{axis: dims[symbol] for axis, symbol in axes[each].items()} for each in names]
        torch.onnx.export(net, inputs, str(path), input_names=names, output_names=outputs, opset_version=18, dynamo=True,
                          dynamic_shapes=(*shapes[:1], tuple(shapes[1:])) if kind == "decoder" else tuple(shapes))
    else:
        torch.onnx.export(net, inputs, str(path), input_names=names, output_names=outputs, dynamic_axes=axes,
                          opset_version=17, dynamo=False)
    return path


def main() -> None:
    out_dir = Path(sys.argv[1])
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or SUITE:
        print(make(name, out_dir))


if __name__ == "__main__":
    main()
