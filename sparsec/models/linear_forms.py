"""The linear form of every PyTorch operation that weighs or couples elements; see `sparsec.models.linearise`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsec.errors import PruningError

SUMS = (
    "add", "sub", "mul", "div", "true_divide", "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__",
    "__mul__", "__rmul__", "__imul__", "__truediv__",
)


@dataclass(frozen=True)
class Arithmetic:
    """How a linearised network computes: `after` follows every sum, `weigh` makes a constant weight non-negative."""

    dtype: torch.dtype
    after: Callable[[Tensor], Tensor]
    weigh: Callable[[Tensor], Tensor]

    def weight(self, weight: Tensor) -> Tensor:
        """A weight under study as it is, any other one made non-negative."""
        return weight if live(weight) else self.weigh(weight.to(self.dtype))


def live(value: Any) -> bool:
    """Whether a value depends on an input or on a weight under study; nothing else requires a gradient here."""
    return isinstance(value, Tensor) and value.requires_grad


def add(how: Arithmetic, *terms: Any, **_: Any) -> Tensor:
    """Sums, and products of activations, of the terms that are not constant."""
    shape = torch.broadcast_shapes(*(x.shape for x in terms if isinstance(x, Tensor)))
    first, *rest = [x.expand(shape) for x in terms if live(x)]
    return how.after(sum(rest, first))


def linear(how: Arithmetic, x: Tensor, weight: Tensor, bias: Any = None) -> Tensor:  # noqa: ARG001
    """Fully connected layer without its bias."""
    return how.after(F.linear(x, how.weight(weight)))


def convolution(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Convolution without its bias."""

    def form(how: Arithmetic, x: Tensor, weight: Tensor, bias: Any = None, *args: Any, **more: Any) -> Tensor:  # noqa: ARG001
        return how.after(function(x, how.weight(weight), None, *args, **more))

    return form


def matmul(how: Arithmetic, a: Tensor, b: Tensor) -> Tensor:
    """With a constant a fully connected layer; of two activations a sum over the row and the column."""
    if live(a) and live(b):
        return how.after(a.sum(-1, keepdim=True) + b.sum(-2, keepdim=True))
    return how.after(how.weight(a) @ b if live(b) else a @ how.weight(b))


def embedding(how: Arithmetic, tokens: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    """Ones: every feature of every token depends on the input."""
    return torch.ones(*tokens.shape, weight.shape[1], dtype=how.dtype, requires_grad=True)


def batch_norm(
    how: Arithmetic, x: Tensor, mean: Any, variance: Any, weight: Tensor | None = None, *_: Any, **__: Any  # noqa: ARG001
) -> Tensor:  # fmt: skip
    """The scale of every channel."""
    return x if weight is None else x * how.weight(weight).reshape(-1, *[1] * (x.dim() - 2))


def layer_norm(how: Arithmetic, x: Tensor, shape: Any, weight: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Every feature depends on all of them."""
    coupled = how.after(x + x.sum(tuple(range(-len(shape), 0)), keepdim=True))
    return coupled if weight is None else coupled * how.weight(weight)


def softmax(how: Arithmetic, x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    """Every element depends on all along the axis."""
    return how.after(x + x.sum(dim, keepdim=True))


def attention(how: Arithmetic, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Queries and keys act through the values that reach an output, and a query only where its key is alive.

    A key counts without its query, which may be a non-zero constant.
    """
    keys = how.after(key.sum(-2, keepdim=True))
    score = how.after((query * keys.detach()).sum(-1, keepdim=True) + keys.sum(-1, keepdim=True))
    return how.after(how.after(value.sum(-2, keepdim=True)) * (1 + score))


def mean(how: Arithmetic, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The sum, so that whole numbers stay whole."""
    return how.after(x.sum(*args, **kwargs))


def max_pool(
    how: Arithmetic, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,  # noqa: FBT001, FBT002, ARG001 - PyTorch's own signature
) -> Tensor:  # fmt: skip
    """The sum over the window: each of its elements may be the largest."""
    if dilation not in {1, (1, 1)}:
        raise PruningError("connectivity through dilated max-pooling is not known here")
    return avg_pool(how, x, kernel_size, stride, padding, ceil_mode)


def avg_pool(
    how: Arithmetic, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, *_: Any, **__: Any,  # noqa: FBT001, FBT002 - PyTorch's own signature
) -> Tensor:  # fmt: skip
    """The sum over the window."""
    return how.after(F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, divisor_override=1))


def adaptive_pool(how: Arithmetic, x: Tensor, output_size: Any, *_: Any, **__: Any) -> Tensor:
    """The mean over the window times the elements of the picture, which is at least 1 where anything is alive."""
    return how.after(F.adaptive_avg_pool2d(x, output_size) * (x.shape[-1] * x.shape[-2]))


LINEAR_FORMS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(SUMS, add),
    "linear": linear,
    "conv1d": convolution(F.conv1d),
    "conv2d": convolution(F.conv2d),
    **dict.fromkeys(["matmul", "bmm", "__matmul__"], matmul),
    "embedding": embedding,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "softmax": softmax,
    "log_softmax": softmax,
    "scaled_dot_product_attention": attention,
    "mean": mean,
    "max_pool2d": max_pool,
    "avg_pool2d": avg_pool,
    "adaptive_avg_pool2d": adaptive_pool,
    "adaptive_max_pool2d": adaptive_pool,
}
"""By the name of the function or method; an entry of your own makes another operation known."""
