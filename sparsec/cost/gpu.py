"""The cost model of products on GPUs: deterministic, from rates that an H200 was measured at, without a GPU at hand.

    t = launches + ((bytes / bandwidth)^o + (waves * t_block)^o)^(1/o) + partial sums / their bandwidth
    t_block = stages * max(multiply-adds / rate of one multiprocessor + extra, bytes / its share of the L2 cache's
                           bandwidth, copies / its rate, latency / stages in flight)

`extra` is the time that tensor cores wait: for bitmaps to be expanded, and for what 2:4 leaves over to be gathered;
without tensor cores, what gathers for every weight take. `o` tells how far the memory and the multiprocessors work at
the same time: at infinity entirely, at 1 not at all. The blocks of a kernel run in waves of as many as the
multiprocessors hold.

Where `sparsec calibrate` has measured the GPU at hand (`gpu_calibration.py`), all but the launches is multiplied by
what kernels of the family took there for so many tokens, over what its rates predict.

What was measured is fitted to `bench/figures/products-h200.json`, 160 kernels, and to the layers of BERT-base;
`tests/cuda/test_measured.py` holds how near the predictions and the choices are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sparsec.cost.option import GpuWork

LAUNCH_S, NEXT_S = 2.7e-6, 1.2e-6
"""A kernel with nothing to do, from a CUDA graph; and the second one of a product, which adds its partial sums."""
TOKENS = (1, 16, 128, 1024)
"""The numbers of tokens that factors are told for."""


@dataclass(frozen=True)
class Device:
    """Rates of the GPU that stands for an architecture.

    Attributes:
        name: the product.
        multiprocessors: their number.
        memory_bytes_per_s: bandwidth of the memory.
        mma_per_s: half-precision multiply-adds per second, float32 sums, of its data sheet.
        shared_bytes: shared memory of a multiprocessor.
        threads: threads of a multiprocessor.
        l2_bytes_per_s: bandwidth of the L2 cache for each multiprocessor.
        shares: what kernels reach of `mma_per_s` where nothing else limits them, dense products' multiply-adds counted:
            by kernel, and by kernel and tile.
        source: where the rates come from.
        launch_s: seconds that a kernel with nothing to do takes, from a CUDA graph.
        factors: by kernel what it takes longer than the rates say, launches apart, for every number of `TOKENS`; others
            are interpolated, and kernels without an entry take as long.

    """

    error: ClassVar[float] = 1.0

    name: str
    multiprocessors: int
    memory_bytes_per_s: float
    mma_per_s: float
    shared_bytes: int
    threads: int
    l2_bytes_per_s: float
    shares: Mapping[str, float]
    source: str
    launch_s: float = LAUNCH_S
    factors: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def seconds(self, work: GpuWork, threads: int = 1) -> float:  # noqa: ARG002 - those of the host
        """The time of a product."""
        memory, compute = self.memory(work), self.compute(work)
        largest = max(memory, compute)
        together: float = largest * ((memory / largest)**OVERLAP + (compute / largest)**OVERLAP)**(1 / OVERLAP)
        return self.overhead(work) + self.factor(work) * (together + self.partial(work) + self.exchange(work))

    def factor(self, work: GpuWork) -> float:
        """What the kernel takes longer than the rates say."""
        row = self.factors.get(work.kernel)
        return 1.0 if row is None else float(np.interp(math.log(max(1, work.columns)), np.log(TOKENS), row))

    def bound(self, work: GpuWork) -> str:
        """What limits a product: "compute", "bandwidth" or "overhead"."""
        moved = self.memory(work) + self.partial(work) + self.exchange(work)
        terms = {"compute": self.compute(work), "bandwidth": moved, "overhead": self.overhead(work)}
        return max(terms, key=terms.__getitem__)

    def nbytes(self, work: GpuWork) -> float:
        """Bytes that come from the memory or go there."""
        return work.nbytes + work.partial_bytes

    def least_seconds(self, work: GpuWork, flops: float, lanes: int, threads: int) -> float:  # noqa: ARG002 - a CPU's
        """The time that tensor cores or the memory need at least."""
        return max(self.memory(work), flops / (2 * work.rate * self.mma_per_s))

    def overhead(self, work: GpuWork) -> float:
        """Seconds that kernels take to start and to end."""
        return self.launch_s + (work.launches - 1) * NEXT_S

    def memory(self, work: GpuWork) -> float:
        """Seconds that the memory is busy, partial sums apart."""
        return work.nbytes / self.memory_bytes_per_s

    def partial(self, work: GpuWork) -> float:
        """Seconds that partial sums take, which nothing overlaps: they wait for products, and the result for them."""
        return work.partial_bytes / (PARTIAL_BYTES_PER_S if work.partial_bytes > KEPT_BYTES else KEPT_BYTES_PER_S)

    def exchange(self, work: GpuWork) -> float:
        """Seconds that the blocks of clusters take to add their sums."""
        return CLUSTER_S + work.exchanged_bytes / EXCHANGED_BYTES_PER_S if work.exchanged_bytes else 0.0

    def compute(self, work: GpuWork) -> float:
        """Seconds that the blocks take, wave by wave."""
        resident = max(1, min(self.shared_bytes // max(work.shared_bytes, 1), self.threads // work.threads))
        rate = self.share(work) * work.rate * self.mma_per_s / self.multiprocessors
        busy = min(resident, math.ceil(work.blocks / self.multiprocessors))  # blocks that share a multiprocessor
        products = work.stage_fmas / rate + work.stage_decoded / DECODED_PER_S + work.stage_items / ITEMS_PER_S
        products += work.stage_gathered / GATHERED_PER_S[work.gathered_columns]
        arithmetic = busy * max(products, work.stage_copies / COPIES_PER_S, work.stage_bytes / self.l2_bytes_per_s)
        stage = max(arithmetic, LATENCY_S / max(1, work.stages_in_flight))
        waves = math.ceil(work.blocks / (self.multiprocessors * resident))
        return waves * work.stages * stage

    def share(self, work: GpuWork) -> float:
        """What the kernel reaches of the tensor cores' rate: with its tile, else by itself, else as its like does."""
        kind = ("wgmma" if work.warp_groups else "mma") + (".sp" if work.sparse else "")
        known = (f"{work.kernel} {work.tile}", work.kernel, f"{work.like} {work.tile}", work.like, kind)
        return next(self.shares[each] for each in known if each in self.shares)


OVERLAP = 1.84
"""How far memory and multiprocessors work at the same time; see the module."""
LATENCY_S = 0.82e-6
"""From asking for a stage to its arrival."""
PARTIAL_BYTES_PER_S, KEPT_BYTES_PER_S, KEPT_BYTES = 4.1e12, 9.2e12, 40e6
"""What partial sums are written and read at, beyond and within what the L2 cache keeps of them."""
CLUSTER_S, EXCHANGED_BYTES_PER_S = 0.5e-6, 2.6e12
"""Two barriers of a cluster, and what blocks read each other's shared memory at. Both are taken to be so, not measured;
the latter is near what Luo et al. report ("Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", 2024)."""
COPIES_PER_S = 4.5e10
"""Copies to shared memory per second and multiprocessor: those of one warp in a clock cycle."""
DECODED_PER_S = 2.6e10
"""Elements per second and multiprocessor that bitmaps are expanded at, as measured on an H200: instructions decide."""
ITEMS_PER_S = 2.2e7
"""Products of what 2:4 leaves over per second and multiprocessor, so that BERT-base at 90 % zeros takes what it took on
an H200: each waits for its loads from shared memory, which nothing overlaps."""
GATHERED_PER_S = {1: 1.4e10, 2: 1.1e10, 4: 7e9, 8: 4.4e9}
"""Weights per second and multiprocessor that are multiplied with gathered activations, by the tokens of a gather: one
and four as measured on an H200, two between them, eight from what banks allow."""

HOPPER = 494.5e12
CUBLASLT_SHARE = 0.82
"""Of cuBLASLt's products, measured through PyTorch on an H200: with the tiles that `kernels.cuda.cublaslt` takes it to
choose, 0.98 to 1.15 of what it took for ten products are predicted. Other GPUs' are derived, from their data sheets."""
H200_SHARES = {
    "mma": 0.36, "mma 128x128": 0.38, "mma 128x256": 0.376, "mma 256x128": 0.387, "mma 64x128": 0.332,
    "mma.sp": 0.5, "mma.sp 128x128": 0.511, "mma.sp 128x256": 0.482, "mma.sp 128x64": 0.444, "mma.sp 256x128": 0.483,
    "wgmma": 0.63, "wgmma 128x256": 0.662, "wgmma 256x128": 0.598,
    "wgmma.sp": 0.8, "wgmma.sp 128x256": 0.915,
    "wgmma bulk": 0.75, "wgmma bulk 128x128": 0.7, "wgmma.sp bulk": 1.15, "wgmma.sp bulk 128x128": 0.85,
    "cublaslt": CUBLASLT_SHARE,
}
"""Measured: `mma` reaches little more than half of what warp groups do, and 2:4 gains 1.3 times, not 2. Those of bulk
copies are a prototype's in CUDA C++ on the same GPU (1.13 to 1.35 for 2:4, 0.75 to 0.84 dense), less 5 % for storing
sums, which it does by copies. Kernels of 8 bits are derived: the same shares of twice the rate, since an instruction
reads as many bytes of both operands and has twice the inputs."""
SHARES = {"mma": 1.0, "mma.sp": 1.35, "cublaslt": CUBLASLT_SHARE}
"""Where nothing was measured: the data sheet's rate, the H200's gain of 2:4, and what cuBLASLt reaches there."""
MEASURED, SHEET = "measured on an {name}, 2026-11-28", "data sheet of {name}; nothing was measured"

DEVICES = {
    "sm_80": Device("A100 SXM 80 GB", 108, 2.039e12, 156e12, 164 << 10, 2048, 6.5e10, SHARES, SHEET),
    "sm_86": Device("A40", 84, 0.696e12, 74.8e12, 100 << 10, 1536, 6.5e10, SHARES, SHEET),
    "sm_89": Device("L40S", 142, 0.864e12, 181e12, 100 << 10, 1536, 6.5e10, SHARES, SHEET),
    "sm_90": Device("H200 SXM", 132, 4.9e12, HOPPER, 228 << 10, 2048, 8.8e10, H200_SHARES, MEASURED),
}
"""By architecture. Bandwidth and tensor rates are those of NVIDIA's data sheets (half the FLOPS), the H200's bandwidth
as fitted; shared memory and threads those of the CUDA programming guide, "Compute Capabilities". The L2 cache's
bandwidth is A100's 5120 bytes a clock cycle, which others are taken to be like, and the H200's as fitted. The times and
rates above are the H200's for all of them.
"""
