"""Dense products by NVIDIA's cuBLASLt: kernels whose host code calls the library, and which are launched as others are.

    Y = activation(W X + bias + residual), the residual as the library's C and the rest as its epilogue

W lies in its own order, and bias and residual are of Y's type. The library chooses tile and algorithm where the session
opens (`backends.cuda.cublaslt`); the tile of the parameters is what the cost model takes it to choose. `partial` is the
library's workspace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import GpuWork, Option
from sparsec.errors import FormatError
from sparsec.kernels.cuda import pipeline
from sparsec.kernels.cuda.family import (
    ACTIVATIONS,
    Architectures,
    GpuFamily,
    GpuProduct,
    Skeleton,
    by_parameters,
    by_stage,
    half_product,
    product_params,
)
from sparsec.kernels.cuda.params import HALVES, OUTPUTS, VECTOR_BYTES, MmaParams, Tile
from sparsec.kernels.emit.tir import Buffers, Kernel
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import CUBLASLT, Target, function_of

EPILOGUES = ("none", "relu", "gelu_tanh")
"""The activations that the library has behind a product."""
WORKSPACE_BYTES = 32 << 20
"""What NVIDIA recommends for Hopper, and what PyTorch gives it."""
TILES = (Tile(128, 256, 64, (8, 1), 4), Tile(128, 128, 64, (8, 1), 6), Tile(64, 128, 64, (4, 1), 7),
         Tile(64, 64, 64, (4, 1), 7))
FILLED = 96
"""Blocks from which on a tile is taken to be chosen: three quarters of an H200's multiprocessors."""
SHARED_READS = 0.5
"""Of a stage's bytes that come from the L2 cache for a block: two of a cluster get each other's half."""


def product_of(layer: GpuProduct, half: str) -> MmaParams:
    """A layer's product, with the largest tile of which there are enough blocks."""
    m, k = layer.weight.shape
    products = [MmaParams(m, layer.columns, k, tile, half, layer.out or half, layer.epilogue, window=layer.window)
                for tile in TILES]
    return next((p for p in products if p.grid[0] * p.grid[1] >= FILLED), products[-1])


def refuses(p: MmaParams) -> str | None:
    """Why the library does not compute a product, or computes it slowly; None where it does."""
    e = p.epilogue
    reasons = {
        "it multiplies halves": p.dtype not in ("float16", "bfloat16"),
        "it multiplies rows that lie one behind the other, not the windows of an image": p.window is not None,
        "it multiplies features in their order": p.gather is not None,
        "it divides K by itself": p.split_k > 1,
        f"rows of {p.k} inputs and of {p.m} outputs do not all begin at multiples of {VECTOR_BYTES} bytes":
            p.k * p.itemsize % VECTOR_BYTES > 0 or p.m * OUTPUTS[p.out] % VECTOR_BYTES > 0,
        f"it has no '{e.activation}' behind a product": e.activation not in EPILOGUES,
        "it has no product by another tensor behind its own": e.multiplies,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def arguments(p: MmaParams) -> pipeline.Arguments:
    """The buffers in order: W, bias, X, residual, the workspace and Y."""
    found = pipeline.arguments(p, {"values": (p.m * p.k, p.dtype)}) | {"bias": (p.m, p.out)}
    y = found.pop("y")
    return {**found, "partial": (WORKSPACE_BYTES, "uint8"), "y": y}


def build(p: MmaParams, _archs: Architectures = ()) -> Kernel:
    """The function that calls the library.

    Raises:
        FormatError: it does not compute the product.

    """
    if reason := refuses(p):
        raise FormatError(f"no {FAMILY.name} kernel for {p}: {reason}")

    def body(buffers: Buffers) -> None:
        given = [buffers[name].data for name in ("values", "bias", "x", "partial", "y")]
        residual = [buffers["residual"].data] if p.epilogue.residual else []
        T.evaluate(T.call_packed(function_of(CUBLASLT), p.m, p.n, p.k, p.dtype, p.out, p.epilogue.activation,
                                 WORKSPACE_BYTES, *given, *residual))

    return pipeline.prim_func(arguments(p), body).with_attr(pipeline.LIBRARY, CUBLASLT)


def pack(weight: np.ndarray, _p: MmaParams) -> dict[str, np.ndarray]:
    """The kernel's flat array for a weight (m, k)."""
    return {"values": np.ascontiguousarray(weight).ravel()}


def unpack(arrays: dict[str, np.ndarray], p: MmaParams) -> np.ndarray:
    """The weight (m, k) of `pack`ed arrays."""
    return arrays["values"].reshape(p.m, p.k)


def shared_bytes(p: MmaParams) -> int:
    """Bytes of shared memory that a block is taken to need."""
    return p.tile.stages * _stage_bytes(p)


def _stage_bytes(p: MmaParams) -> int:
    return (p.tile.rows + p.tile.columns) * p.tile.depth * p.itemsize


def work(p: MmaParams, sizes: Mapping[str, int], _nbytes: int) -> GpuWork:
    """What a run is taken to do."""
    t = p.tile
    return GpuWork(
        nbytes=sum(sizes.values()) - sizes["partial"], blocks=p.grid[0] * p.grid[1], threads=t.threads,
        shared_bytes=shared_bytes(p), stages=p.k_tiles, stages_in_flight=min(p.k_tiles, t.stages - 1),
        stage_fmas=t.rows * t.columns * t.depth, stage_bytes=SHARED_READS * _stage_bytes(p), stage_copies=0,
        kernel=CUBLASLT, tile=f"{t.rows}x{t.columns}")


def candidates(layer: GpuProduct, _target: Target, _archs: Architectures, precision: str) -> Iterator[Option]:
    """The one option: the library chooses the rest."""
    p = product_of(layer, HALVES[precision])
    if refuses(p) is None:
        sizes = {name: length * np.dtype(dtype).itemsize for name, (length, dtype) in arguments(p).items()}
        nbytes = sum(size for name, size in sizes.items() if name not in ACTIVATIONS)
        yield Option("dense", CUBLASLT, "chosen where it runs", p, nbytes, work(p, sizes, nbytes),
                     ieee=p.epilogue.activation == "none")


def reject(layer: GpuProduct, _archs: Architectures) -> str | None:
    """Why the library does not compute a layer, or None."""
    return refuses(product_of(layer, "float16"))


FAMILY: GpuFamily[MmaParams] = GpuFamily(
    CUBLASLT, GpuProduct, ("dense",), "", candidates, unstored(pack), build, half_product, reject,
    skeleton=Skeleton(lambda p: {"values": (p.m * p.k, p.dtype)}, shared_bytes, build, work, arguments),
    unpack=unpack, params=product_params, refuses=refuses, sparse=False, tiles=TILES, architecture="",
    counted_by=by_stage, packed_by=by_parameters, library=CUBLASLT)
