"""The cost model of products on a GPU's tensor cores: deterministic, from published rates, without a GPU at hand.

    t = launches + fill + max(bytes / bandwidth, waves * t_block)
    t_block = stages * max(multiply-adds / rate of one multiprocessor + extra, bytes / its share of the L2 cache's
                           bandwidth, copies / its rate, latency / stages in flight)

`extra` is the time that tensor cores wait: for bitmaps to be expanded, and for what 2:4 leaves over to be gathered;
without tensor cores, what gathers for every weight take.
The blocks of a kernel run in waves of as many as the multiprocessors hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from sparsec.cost.option import GpuWork


@dataclass(frozen=True)
class Device:
    """Rates of the GPU that stands for an architecture.

    Attributes:
        name: the product.
        multiprocessors: their number.
        memory_bytes_per_s: bandwidth of the memory.
        mma_per_s: half-precision multiply-adds per second, float32 sums, that `mma` reaches on dense tensor cores.
        sparse_gain: how much faster 2:4 products are, where tensor cores are the limit.
        shared_bytes: shared memory of a multiprocessor.
        threads: threads of a multiprocessor.
        wgmma_per_s: what the instructions of warp groups reach; 0 where there are none.

    """

    error: ClassVar[float] = 1.0

    name: str
    multiprocessors: int
    memory_bytes_per_s: float
    mma_per_s: float
    sparse_gain: float
    shared_bytes: int
    threads: int
    wgmma_per_s: float = 0.0

    def seconds(self, work: GpuWork, threads: int = 1) -> float:  # noqa: ARG002 - those of the host
        """The time of a product."""
        return self.overhead(work) + max(self.memory(work), self.compute(work))

    def bound(self, work: GpuWork) -> str:
        """What limits a product: "compute", "bandwidth" or "overhead"."""
        terms = {"compute": self.compute(work), "bandwidth": self.memory(work), "overhead": self.overhead(work)}
        return max(terms, key=terms.__getitem__)

    def nbytes(self, work: GpuWork) -> float:
        """Bytes that come from the memory or go there."""
        return work.nbytes

    def least_seconds(self, work: GpuWork, flops: float, lanes: int, threads: int) -> float:  # noqa: ARG002 - a CPU's
        """The time that tensor cores or the memory need at least."""
        return max(self.memory(work), flops / (2 * self.mma_per_s))

    def overhead(self, work: GpuWork) -> float:
        """Seconds that kernels take to start, and until a block's first stage has arrived."""
        return work.launches * LAUNCH_S + FILL_S

    def memory(self, work: GpuWork) -> float:
        """Seconds that the memory is busy."""
        return work.nbytes / self.memory_bytes_per_s

    def compute(self, work: GpuWork) -> float:
        """Seconds that the blocks take, wave by wave."""
        resident = max(1, min(self.shared_bytes // max(work.shared_bytes, 1), self.threads // work.threads))
        dense = self.wgmma_per_s if work.warp_groups else self.mma_per_s
        rate = dense / self.multiprocessors * (self.sparse_gain if work.sparse else 1.0)
        busy = min(resident, math.ceil(work.blocks / self.multiprocessors))  # blocks that share a multiprocessor
        products = work.stage_fmas / rate + work.stage_decoded / DECODED_PER_S + work.stage_items / ITEMS_PER_S
        products += work.stage_gathered / GATHERED_PER_S[work.gathered_columns]
        arithmetic = busy * max(products, work.stage_copies / COPIES_PER_S, work.stage_bytes / L2_BYTES_PER_S)
        stage = max(arithmetic, LATENCY_S / max(1, work.stages_in_flight))
        waves = math.ceil(work.blocks / (self.multiprocessors * resident))
        return waves * work.stages * stage


LAUNCH_S = 3e-6
"""From one kernel of a stream to the next, as small kernels show it."""
FILL_S = 1.5e-6
"""From a block's start to its first product, and from its last to the end of its stores."""
LATENCY_S = 0.7e-6
"""From asking for a stage to its arrival."""
L2_BYTES_PER_S = 6.5e10
"""Bandwidth of the L2 cache for each multiprocessor: A100's 5120 bytes a clock cycle; others are taken to be alike."""
COPIES_PER_S = 4.5e10
"""Copies to shared memory per second and multiprocessor: those of one warp in a clock cycle."""
DECODED_PER_S = 2.6e10
"""Elements per second and multiprocessor that bitmaps are expanded at, as measured on an H200: instructions decide."""
ITEMS_PER_S = 7e8
"""Products of what 2:4 leaves over per second and multiprocessor: an assumption, two loads from shared memory at one a
clock cycle, which take longer than the product itself and which nothing else overlaps."""
GATHERED_PER_S = {1: 1.1e10, 2: 1e10, 4: 7.4e9, 8: 4.4e9}
"""Weights per second and multiprocessor that are multiplied with gathered activations, by the tokens of a gather: one
and four as measured on an H200, two between them, eight from what banks allow."""

HOPPER = 494.5e12  # half-precision multiply-adds per second by its data sheet
MMA_SHARE, WGMMA_SHARE = 0.62, 0.8
"""The shares of Hopper's rate that kernels reach with `mma` and with `wgmma`: assumptions. The second is the least that
optimized products reach on an H100 (Shah et al., FlashAttention-3, 2024, section 1: 80-90 %)."""

DEVICES = {
    "sm_80": Device("A100 SXM 80 GB", 108, 2.039e12, 156e12, 1.6, 164 << 10, 2048),
    "sm_86": Device("A40", 84, 0.696e12, 74.8e12, 1.6, 100 << 10, 1536),
    "sm_89": Device("L40S", 142, 0.864e12, 181e12, 1.6, 100 << 10, 1536),
    "sm_90": Device("H200 SXM", 132, 4.8e12, MMA_SHARE * HOPPER, 1.6, 228 << 10, 2048,
                    wgmma_per_s=WGMMA_SHARE * HOPPER),
}
"""By architecture. Bandwidth and tensor rates are those of NVIDIA's data sheets (half the FLOPS); shared
memory and threads those of the CUDA programming guide, "Compute Capabilities". The gain of 2:4 is not the 2 of the data
sheets: cuSPARSELt reaches 1.5 to 1.8 times cuBLASLt from 4096 x 4096 on (PyTorch's semi-structured sparsity, A100 and
H100).
"""

SOURCE = "data sheet of {name}; nothing was measured"
