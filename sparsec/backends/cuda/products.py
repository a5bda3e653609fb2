"""A layer with a constant weight as a product on tensor cores: the ways there are, what each costs, and its launch."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tvm import relax

from sparsec.backends.cuda import arrange
from sparsec.backends.cuda.arrange import Arranged
from sparsec.backends.cuda.context import CudaContext
from sparsec.cost.option import GpuWork, Option
from sparsec.kernels.cuda import bitmap, mma_dense, mma_sp, rest, tiles, wgmma, wgmma_dense, wgmma_sp
from sparsec.kernels.cuda.bitmap import BitmapParams
from sparsec.kernels.cuda.params import Gather, MmaParams, Window, reject
from sparsec.kernels.cuda.rest import RestParams
from sparsec.kernels.emit.epilogue import Epilogue

FAMILIES: dict[str, Any] = {"mma": mma_dense, "mma.sp": mma_sp, "mma.sp + rest": rest, "wgmma": wgmma_dense,
                            "wgmma.sp": wgmma_sp, "bitmap": bitmap}
"""Kernel families: `pack`, `build`, `arguments` and `shared_bytes`."""
COUNTED: dict[str, Any] = {"mma.sp + rest": rest, "bitmap": bitmap}
"""Families with `params` of their own around a product's, which count how the weight falls into stages."""
KernelParams = MmaParams | BitmapParams | RestParams

WARP_GROUPS = {"mma": "wgmma", "mma.sp": "wgmma.sp"}
"""By the family of single warps, the family of Hopper's warp groups that reads the same packed weight."""
HOPPER = wgmma.ARCHITECTURE.removesuffix("a")
"""The architecture that may have warp groups, where it is a target's only one."""


@dataclass(frozen=True)
class Way:
    """A way to run a layer.

    Attributes:
        family: the kernel family.
        arranged: how its weight is arranged, or the reason why it cannot be.
        after: the family whose ways before this one make it pointless; its own where None.

    """

    family: str
    arranged: Callable[[np.ndarray], Arranged | str]
    after: str | None = None


WAYS: dict[str, Way] = {
    "nm 2:4": Way("mma.sp", arrange.plain),
    "nm 2:4 permuted": Way("mma.sp", arrange.permuted),
    "bitmap": Way("bitmap", Arranged),
    "nm 2:4 + rest": Way("mma.sp + rest", arrange.with_rest, after="mma.sp"),
    "nm 4:6": Way("mma.sp", functools.partial(arrange.windows, size=6)),
    "nm 6:8": Way("mma.sp", functools.partial(arrange.windows, size=8)),
    "dense": Way("mma", Arranged),
}
"""By storage format, the ways of each family in order of preference: only the first that is possible is offered. Of
options that are predicted to take the same time the first way's is chosen."""

SHARES = (1, 2, 4, 8)
"""How many blocks share the K of a tile."""
FEW = 16
"""The columns up to which expanding a bitmap is worth considering: beyond them, tensor cores wait for it."""


@dataclass(frozen=True)
class Layer:
    """A layer as a product over rows of features: Y (columns, m) = activation(X (columns, k) W^T + bias + residual).

    Attributes:
        weight: (m, k) float32.
        bias: (m,).
        columns: tokens or pixels.
        epilogue: what follows.
        window: how the rows of X are windows of an image, None where they lie one after the other.

    """

    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    columns: int
    epilogue: Epilogue
    window: Window | None = None


@dataclass(frozen=True)
class Product:
    """The parameters of an option; the family is the way's or the one of warp groups for it."""

    way: str
    family: str
    params: KernelParams


def options(layer: Layer, archs: tuple[str, ...], half: str) -> tuple[list[Option], dict[str, str]]:
    """Every way to run a layer on all architectures, with each of its tiles, and why the other ways cannot run it."""
    offers: list[Option] = []
    refused: dict[str, str] = {}
    served: dict[str, str] = {}
    for name, way in WAYS.items():
        if (earlier := served.get(way.after or way.family)) is not None:
            arranged: Arranged | str = f"the weight is {earlier}"
        elif way.family == "bitmap" and layer.columns > FEW:
            arranged = f"expanding bitmaps is for up to {FEW} columns, here are {layer.columns}"
        else:
            arranged = way.arranged(layer.weight)
        if isinstance(arranged, str):
            refused[name] = arranged
            continue
        served[way.family] = name
        for family in _families(way, archs):
            offers += _options(name, family, layer, arranged, archs, half)
    if HOPPER in archs and len(archs) > 1:
        refused["wgmma"] = (f"only {wgmma.ARCHITECTURE} has warp groups, and a kernel is for {' and '.join(archs)}; "
                            f"compile with --target cuda-{HOPPER.replace('_', '')}")
    return offers, refused


def _families(way: Way, archs: tuple[str, ...]) -> list[str]:
    """The kernel families that multiply the weight of a way on all architectures."""
    both = way.family in WARP_GROUPS and archs == (HOPPER,)
    return [way.family, WARP_GROUPS[way.family]] if both else [way.family]


def emit(context: CudaContext, layer: Layer, product: Product, x: relax.Expr, residual: relax.Expr | None,
         ) -> relax.Expr:
    """Launch a layer's product on flat activations (columns * k); returns the flat output (columns * m)."""
    p, family = product.params, product.family
    arranged = WAYS[product.way].arranged(layer.weight)
    assert isinstance(arranged, Arranged)  # it was offered
    weight = arranged.weight.astype(np.dtype(context.half))
    constants = list(FAMILIES[family].pack(weight, p).values())
    if arranged.gather is not None:
        constants.append(arranged.gather.astype(np.int32))
    constants.append(layer.bias.astype(np.float32))
    outputs = [shape for name, shape in FAMILIES[family].arguments(p).items() if name in ("partial", "y")]
    activations = [x] if residual is None else [x, residual]
    return context.launch(_kernel(family, p), [*map(context.constant, constants), *activations], outputs)


@functools.lru_cache(maxsize=512)
def _kernel(family: str, params: KernelParams) -> Any:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return FAMILIES[family].build(params)


def _options(name: str, family: str, layer: Layer, arranged: Arranged, archs: tuple[str, ...], half: str,
             ) -> Iterator[Option]:
    """A way by a kernel family, with every tile that all architectures can run."""
    m, depth = arranged.weight.shape
    gather = None if arranged.gather is None else Gather(depth, arranged.run)
    counted: dict[tuple[int, int], Any] = {}  # how the weight falls into stages
    candidates = tiles.candidates(layer.columns, 2, tiles.WARP_GROUP_TILES if _by_groups(family) else tiles.TILES)
    for tile, shares in itertools.product(candidates, SHARES):
        p = MmaParams(m, layer.columns, layer.weight.shape[1], tile, half, half, layer.epilogue,
                      gather=gather, window=layer.window, split_k=shares)
        if _possible(family, p):
            params: KernelParams = p
            if family in COUNTED:
                stage = tile.rows, tile.depth
                counted[stage] = counted.get(stage) or COUNTED[family].params(arranged.weight, p)
                params = replace(counted[stage], product=p)
            needed = FAMILIES[family].shared_bytes(params)
            if all(tiles.reject(needed, arch) is None for arch in archs):
                work, detail = _work(family, p, params), _detail(p, arranged.rest)
                yield Option(name, family, detail, Product(name, family, params), _weight_bytes(family, params), work)


def _by_groups(family: str) -> bool:
    """Whether a family's kernels are those of warp groups."""
    return family in WARP_GROUPS.values()


def _possible(family: str, p: MmaParams) -> bool:
    """Whether a family computes a product with its tile."""
    if reject(p) is not None or (family == "bitmap" and p.tile.columns > FEW):
        return False
    return not _by_groups(family) or wgmma.reject(p) is None


def _detail(p: MmaParams, share: float) -> str:
    tile = p.tile
    more = (f" split={p.split_k}" if p.split_k > 1 else "") + (f" rest={share:.2%}" if share else "")
    return f"{tile.rows}x{tile.columns}x{tile.depth} stages={tile.stages} threads={tile.threads}{more}"


def _sizes(family: str, params: KernelParams) -> dict[str, int]:
    """Bytes of every argument."""
    return {name: length * np.dtype(dtype).itemsize
            for name, (length, dtype) in FAMILIES[family].arguments(params).items()}


def _weight_bytes(family: str, params: KernelParams) -> int:
    """Bytes of the packed weight."""
    activations = ("bias", "x", "residual", "partial", "y")
    return sum(nbytes for name, nbytes in _sizes(family, params).items() if name not in activations)


def _work(family: str, p: MmaParams, params: KernelParams) -> GpuWork:
    """What a run of the product does."""
    tile, sizes, groups = p.tile, _sizes(family, params), _by_groups(family)
    copied = tile.columns * tile.depth * p.itemsize
    stored = _weight_bytes(family, params) / (p.row_blocks * 16 * p.depth)  # bytes a weight
    return GpuWork(
        nbytes=sum(sizes.values()) + sizes.get("partial", 0),  # partial sums are written and read
        blocks=math.prod(p.grid), threads=tile.threads, shared_bytes=FAMILIES[family].shared_bytes(params),
        stages=p.share_tiles, stages_in_flight=min(p.share_tiles, tile.stages - 1 - (wgmma.IN_FLIGHT if groups else 0)),
        stage_fmas=tile.rows * tile.columns * tile.depth,
        stage_bytes=copied + stored * tile.rows * tile.depth, stage_copies=copied / p.copy_bytes,
        stage_decoded=tile.rows * tile.depth * tile.warps[1] if family == "bitmap" else 0.0,
        stage_items=params.items / params.stages * tile.columns / 8 if isinstance(params, RestParams) else 0.0,
        sparse=".sp" in family, warp_groups=groups, launches=1 if p.split_k == 1 else 2)
