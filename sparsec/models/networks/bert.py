"""A BERT encoder with a classifier on the first token (Devlin et al. 2019)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention, (n, tokens, width) -> (n, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every token attends to every token."""
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # (n, heads, tokens, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a feed-forward network, each with its residual and layer normalisation."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """Token and position embeddings, `depth` layers and a classifier."""

    def __init__(self, depth: int, width: int, heads: int, vocabulary: int, positions: int, classes: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(positions, width))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(Layer(width, heads, 4 * width) for _ in range(depth)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 (n, tokens) -> (n, classes)."""
        x = self.norm(self.token(tokens) + self.position[: tokens.shape[1]])
        return self.classifier(self.layers(x)[:, 0])


def bert(
    depth: int = 12, width: int = 768, heads: int = 12, vocabulary: int = 30522, positions: int = 512, classes: int = 2
) -> nn.Module:
    """BERT-base by default, int64 (n, tokens <= positions) -> (n, classes)."""
    return Bert(depth, width, heads, vocabulary, positions, classes)
