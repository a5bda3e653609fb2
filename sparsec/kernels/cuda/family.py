"""What a kernel family for GPUs is: the contract of `kernels.family`, told by what differs between families.

A family's file says how its weight is packed and reaches the arithmetic; tiles, shares of K and arguments are the same
for all, and so are the skeleton (`pipeline.py`) and the work of those that stage K in shared memory. Its parameters are
the product's, or a subclass with what it counts of the weight beside them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from sparsec.cost.option import GpuWork, Option
from sparsec.cost.precisions import UNCALIBRATED
from sparsec.errors import FormatError
from sparsec.kernels.cuda import encoding, pipeline
from sparsec.kernels.cuda import tiles as tilings
from sparsec.kernels.cuda.arrange import Arranged, arranged
from sparsec.kernels.cuda.codes import Codes, of_range
from sparsec.kernels.cuda.params import HALVES, Gather, MmaParams, Tile, Window, fields_of
from sparsec.kernels.cuda.params import reject as reject_product
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.tir import Kernel
from sparsec.kernels.family import Family, WeightedProduct, accepts
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

P = TypeVar("P", bound=MmaParams)
Architectures = tuple[str, ...]
"""What a kernel is compiled for, such as ("sm_80", "sm_90")."""
Arrays = dict[str, np.ndarray]

SHARES = (1, 2, 4, 8)
"""How many blocks share the K of a tile."""
CLUSTERED = ("sm_90",)
"""The architectures on which these may be a cluster."""
SUM_BYTES = 4
ACTIVATIONS = ("bias", "x", "residual", "partial", "y")
"""The arguments that are not the weight's."""
EIGHT_BITS = 2.0
"""Products of 8 bits for one of half precision, by the data sheets of all GPUs that are known; nothing was measured."""


@dataclass(frozen=True, eq=False)
class GpuProduct(WeightedProduct):
    """A layer as a product over rows of features: Y (columns, m) = activation(X (columns, k) W^T + bias + residual).

    Attributes:
        columns: tokens or pixels.
        epilogue: what follows.
        window: how the rows of X are windows of an image, None where they lie one after the other.
        out: dtype of Y, "" for that of X.
        given: what X's codes stand for, where the model has quantised it.
        ranges: the least and the largest number of X in samples, zero among them; None without any.
        written: what computes X makes its codes, so that no kernel does.
        sides: the weight multiplies columns.
        padded: windows reach beyond the image, where zeros are read.

    """

    columns: int
    epilogue: Epilogue
    window: Window | None = None
    out: str = ""
    given: Codes | None = None
    ranges: tuple[float, float] | None = None
    written: bool = False
    sides: bool = False
    padded: bool = False

    def codes(self, dtype: str) -> Codes | str:
        """What X is as codes beside a weight of a type, "int8" or "e4m3", or why there are none."""
        if self.given is not None and self.padded and self.given.zero_point:
            return f"its kernel reads zeros around the image, whose code is {self.given.zero_point}"
        if self.given is not None:
            return self.given if dtype == "int8" else "its activations are integers already"
        if self.ranges is None:
            return f"{UNCALIBRATED}; give real inputs"
        if not np.isfinite(self.ranges).all():
            return "its activations are not finite in the samples"
        return of_range(*self.ranges, dtype, padded=self.padded)


@dataclass(frozen=True)
class Skeleton(Generic[P]):
    """What runs around a family's weight.

    Attributes:
        weight: the arrays of `pack`: name -> (length, dtype).
        shared_bytes: bytes of shared memory that a block takes.
        build: the kernel.
        work: what a run does, from the bytes of every argument by name and those of the weight.
        arguments: the kernel's buffers, where they are not those of `pipeline.arguments`.

    """

    weight: Callable[[P], pipeline.Arguments]
    shared_bytes: Callable[[P], int]
    build: Callable[[P], Kernel]
    work: Callable[[P, Mapping[str, int], int], GpuWork]
    arguments: Callable[[P], pipeline.Arguments] | None = None


@dataclass(frozen=True, kw_only=True)
class GpuFamily(Family[GpuProduct, P, Architectures], Generic[P]):
    """A kernel family for GPUs; made by `family` or `assembled`.

    Attributes:
        skeleton: how it runs.
        unpack: the weight (m, depth) of packed arrays.
        params: the parameters for an arranged weight (m, depth) and a product.
        refuses: why no kernel computes a product with its tile, or None.
        sparse: it multiplies half of the weights, those of a 2:4 matrix.
        tiles: those to choose from, for 2-byte elements.
        architecture: the architecture that its kernels are for alone, such as sm_90a; empty: all.
        counted_by: what of a product, beside the weight, decides what `params` finds.
        packed_by: what of the parameters decides the packed arrays, with the function that packs.
        library: the one that its kernels call, a feature of targets; empty: none, they are generated.
        dtype: of the operands, where they are codes of 8 bits; "" for half precision.

    """

    skeleton: Skeleton[P]
    unpack: Callable[[Arrays, P], np.ndarray]
    params: Callable[[np.ndarray, MmaParams], P]
    refuses: Callable[[MmaParams], str | None]
    sparse: bool
    tiles: Sequence[Tile]
    architecture: str
    counted_by: Callable[[MmaParams], Hashable]
    packed_by: Callable[[P], Hashable]
    library: str = ""
    dtype: str = ""

    def permits(self, layer: GpuProduct, precision: str) -> bool:
        """A quantised model's own codes need no permission."""
        return super().permits(layer, precision) or (self.dtype == "int8" and layer.given is not None)

    def arguments(self, p: P) -> pipeline.Arguments:
        """The kernel's buffers in order, inputs first."""
        own = self.skeleton.arguments
        return pipeline.arguments(p, self.skeleton.weight(p)) if own is None else own(p)

    def shared_bytes(self, p: P) -> int:
        """Bytes of shared memory that a block takes."""
        return self.skeleton.shared_bytes(p)


def product_params(_weight: np.ndarray, product: MmaParams) -> MmaParams:
    """The `params` of a family that counts nothing of the weight."""
    return product


def by_stage(product: MmaParams) -> Hashable:
    """The `counted_by` of a family whose weight falls into stages."""
    return product.tile.rows, product.tile.depth


def by_parameters(p: P) -> Hashable:
    """The `packed_by` of a family whose arrays any of its parameters may decide."""
    return p


def by_shape(p: MmaParams) -> Hashable:
    """The `packed_by` of a family whose arrays serve every tile."""
    return p.m, p.depth


def every(_product: MmaParams) -> str | None:
    """The `refuses` of a family that computes all products."""
    return None


def no_extra_work(_p: MmaParams, work: GpuWork) -> GpuWork:
    """The `extra_work` of a family whose products are all that it does."""
    return work


def half_product(weight: np.ndarray, activations: np.ndarray, p: MmaParams) -> np.ndarray:
    """The `reference`: operands rounded to the tensor cores' type, sums in float32."""
    dtype = np.dtype(p.dtype)
    product: np.ndarray = weight.astype(dtype).astype(np.float32) @ activations.astype(dtype).astype(np.float32)
    return product


def family(name: str, formats: tuple[str, ...], *, weight: Callable[[P], pipeline.Weight],
           pack: Callable[[np.ndarray, P], Arrays], unpack: Callable[[Arrays, P], np.ndarray],
           params: Callable[[np.ndarray, MmaParams], P], refuses: Callable[[MmaParams], str | None] = every,
           extra_work: Callable[[P, GpuWork], GpuWork] = no_extra_work, sparse: bool = False,
           tiles: Sequence[Tile] = tilings.TILES, architecture: str = "",
           reject: Callable[[GpuProduct, Architectures], str | None] = accepts, precision: str = "",
           dtype: str = "", packed_by: Callable[[P], Hashable] = by_parameters,
           reference: Callable[[np.ndarray, np.ndarray, MmaParams], np.ndarray] | None = None) -> GpuFamily[P]:
    """A family whose weight and activations pass through stages of shared memory, by what tells it from others.

    Args:
        name: as of `Family`.
        formats: as of `Family`, each with an `arrange.Arrangement` unless it takes any weight as it is.
        weight: how the packed weight reaches the tensor cores.
        pack: the kernel's arrays for an arranged weight (m, depth) of the product's type.
        unpack: as of `GpuFamily`.
        params: as of `GpuFamily`.
        refuses: what it refuses beside `params.reject`.
        extra_work: what a run does, from what its copies and products do.
        sparse: as of `GpuFamily`.
        tiles: as of `GpuFamily`.
        architecture: as of `GpuFamily`.
        reject: why it is no candidate for a layer, beside its tiles and architectures.
        precision: as of `Family`.
        dtype: as of `GpuFamily`.
        packed_by: as of `GpuFamily`, without the function.
        reference: as of `Family`; None: that of half precision.

    """
    def shared_bytes(p: P) -> int:
        return pipeline.shared_bytes(p, weight(p).stage_bytes)

    def work(p: P, sizes: Mapping[str, int], nbytes: int) -> GpuWork:
        return extra_work(p, _staged_work(p, sizes, nbytes, weight(p), shared_bytes(p), sparse, architecture))

    skeleton = Skeleton(lambda p: weight(p).arguments, shared_bytes, lambda p: pipeline.build(p, weight(p)), work)
    return assembled(name, formats, skeleton, pack=pack, unpack=unpack, params=params,
                     refuses=lambda product: reject_product(product) or refuses(product), sparse=sparse, tiles=tiles,
                     architecture=architecture, reject=reject, precision=precision, dtype=dtype, packed_by=packed_by,
                     reference=reference or half_product)


def assembled(name: str, formats: tuple[str, ...], skeleton: Skeleton[P], *,
              pack: Callable[[np.ndarray, P], Arrays], unpack: Callable[[Arrays, P], np.ndarray],
              params: Callable[[np.ndarray, MmaParams], P], refuses: Callable[[MmaParams], str | None],
              tiles: Sequence[Tile], sparse: bool = False, architecture: str = "",
              reject: Callable[[GpuProduct, Architectures], str | None] = accepts,
              counted_by: Callable[[MmaParams], Hashable] = by_stage, precision: str = "", dtype: str = "",
              packed_by: Callable[[P], Hashable] = by_parameters,
              reference: Callable[[np.ndarray, np.ndarray, MmaParams], np.ndarray] = half_product) -> GpuFamily[P]:
    """A family with a skeleton of its own; arguments are those of `family`, and `refuses` is all that it refuses."""
    def build(p: P, _archs: Architectures = ()) -> Kernel:
        if reason := refuses(p):
            raise FormatError(f"no {name} kernel for {p}: {reason}")
        kernel = skeleton.build(p).with_attr(pipeline.AHEAD, list(skeleton.weight(p)))
        return kernel.with_attr(pipeline.ARCHITECTURE, architecture) if architecture else kernel

    def candidates(layer: GpuProduct, _target: Target, archs: Architectures, precision: str) -> Iterator[Option]:
        for form in formats:
            found = arranged(layer, form)
            if isinstance(found, Arranged):
                for p in _tiled(kernels, layer, form, found, archs, HALVES[precision]):
                    yield _option(kernels, layer, form, found, p)

    kernels = GpuFamily(name, GpuProduct, formats, precision, candidates, unstored(pack), build, reference,
                        partial(_reject, architecture, reject), skeleton=skeleton, unpack=unpack, params=params,
                        refuses=refuses, sparse=sparse, tiles=tiles, architecture=architecture, counted_by=counted_by,
                        packed_by=lambda p: (pack, packed_by(p)), dtype=dtype)
    return kernels


def _reject(architecture: str, reject: Callable[[GpuProduct, Architectures], str | None], layer: GpuProduct,
            archs: Architectures) -> str | None:
    """Why a family is no candidate: it is for another architecture than all that the kernel is for, or its reasons."""
    base = architecture.removesuffix("a")
    if architecture and archs != (base,):
        return (f"only {architecture} has warp groups, and a kernel is for {' and '.join(archs)}; "
                f"compile with --target cuda-{base.replace('_', '')}")
    return reject(layer, archs)


def _tiled(kernels: GpuFamily[P], layer: GpuProduct, form: str, found: Arranged, archs: Architectures, half: str,
           ) -> Iterator[P]:
    """The parameters with every tile and split of K that all architectures can run."""
    m, inputs = layer.weight.shape
    gather = None if found.gather is None else Gather(found.depth, found.run)
    codes = layer.codes(kernels.dtype) if kernels.dtype else ""
    itemsize, x = (2, "") if isinstance(codes, str) else (1, codes.dtype if codes.dtype != kernels.dtype else "")
    ways = itertools.product(SHARES, (False, True)[:1 + set(archs).issubset(CLUSTERED)])
    shared = [(shares, cluster) for shares, cluster in ways if shares > 1 or not cluster]
    for tile, (shares, cluster) in itertools.product(tilings.candidates(layer.columns, itemsize, kernels.tiles),
                                                     shared):
        product = MmaParams(m, layer.columns, inputs, tile, kernels.dtype or half, layer.out or half,
                            layer.epilogue, gather=gather, window=layer.window, split_k=shares, cluster=cluster, x=x)
        if kernels.refuses(product) is not None:
            continue
        counted = _tiled, kernels.name, form, kernels.counted_by(product)
        if counted not in layer.facts:
            layer.facts[counted] = kernels.params(found.of(layer.weight), product)
        p = replace(layer.facts[counted], **fields_of(product))
        if all(tilings.reject(kernels.shared_bytes(p), arch) is None for arch in archs):
            yield p


def _option(kernels: GpuFamily[P], layer: GpuProduct, form: str, found: Arranged, p: P) -> Option:
    sizes = {name: length * np.dtype(dtype).itemsize for name, (length, dtype) in kernels.arguments(p).items()}
    nbytes = sum(size for name, size in sizes.items() if name not in ACTIVATIONS)
    tile = p.tile
    detail = f"{tile.rows}x{tile.columns}x{tile.depth} stages={tile.stages} threads={tile.threads}"
    detail += f" split={p.split_k}" * (p.split_k > 1) + " in a cluster" * p.cluster
    detail += f" rest={found.rest:.2%}" if found.rest else ""
    work = replace(kernels.skeleton.work(p, sizes, nbytes), kernel=kernels.name, tile=f"{tile.rows}x{tile.columns}",
                   columns=layer.columns, like=kernels.name.removesuffix(f" {kernels.precision}"))
    if not kernels.dtype or layer.given is not None:
        return Option(form, kernels.name, detail, p, nbytes, work)
    if not layer.written:  # a kernel makes the codes
        work = replace(work, nbytes=work.nbytes + encoding.BYTES * p.inputs, launches=work.launches + 1)
    return Option(form, kernels.name, detail, p, nbytes, work, codec=kernels.precision, encodes=not layer.written)


def rate(p: MmaParams) -> float:
    """Products for one of half precision."""
    return 1.0 if p.itemsize == 2 else EIGHT_BITS


def _staged_work(p: P, sizes: Mapping[str, int], weight_bytes: int, weight: pipeline.Weight, shared_bytes: int,
                 sparse: bool, architecture: str) -> GpuWork:  # noqa: FBT001 - what `family` knows
    """What the copies and products of a run with these arguments do."""
    tile = p.tile
    copied = tile.columns * tile.depth * p.itemsize
    stored = weight_bytes / (p.row_blocks * 16 * p.depth)  # bytes a weight
    return GpuWork(
        nbytes=sum(sizes.values()) - sizes.get("partial", 0),
        partial_bytes=2 * sizes.get("partial", 0),  # they are written and read
        blocks=math.prod(p.grid), threads=tile.threads, shared_bytes=shared_bytes,
        stages=p.share_tiles, stages_in_flight=min(p.share_tiles, tile.stages - 1 - weight.in_flight),
        stage_fmas=tile.rows * tile.columns * tile.depth,
        stage_bytes=copied + stored * tile.rows * tile.depth, stage_copies=copied / p.copy_bytes,
        sparse=sparse, warp_groups=architecture != "", launches=2 if p.leaves_partial else 1,
        exchanged_bytes=(p.split_k - 1) * p.outputs * SUM_BYTES if p.cluster else 0,
        rate=rate(p))
