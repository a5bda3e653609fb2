"""What a backend offers for a layer and what that would cost: words that kernels, backends and the cost model share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from sparsec.cost.precisions import CALIBRATED


@dataclass(frozen=True)
class Work:
    """What one run of a kernel does, in the units that the cost model prices.

    Attributes:
        fmas: vector multiply-adds.
        loads: vector loads from the L1 cache; one that crosses a cache line counts twice.
        permutes: permutes of a register by variable positions; an expand counts twice.
        tiles: products of tiles (AMX), which nothing else goes on beside.
        groups: short inner loops, each with its set-up, its mispredicted exit and its stores.
        l2_bytes: bytes that the core waits for although they are in the L2 cache.
        l3_bytes: bytes that come from the L3 cache.
        memory_bytes: bytes that come from beyond the L2 cache, and may come from memory.
        kernel: what a machine may have measured an efficiency of, such as "spmm/im2col"; a key of
            `Machine.efficiency`.
        pixels: columns of activations.
        density: share of the weight that is multiplied.
        serial: one thread does it all.

    """

    fmas: float
    loads: float
    groups: float = 0.0
    l2_bytes: float = 0.0
    memory_bytes: float = 0.0
    kernel: str = ""
    pixels: int = 1
    density: float = 1.0
    serial: bool = False
    permutes: float = 0.0
    l3_bytes: float = 0.0
    tiles: float = 0.0

    def times(self, runs: int) -> Work:
        """The work of several runs, of which the first brings the weight from beyond the L2 cache."""
        return replace(self, fmas=runs * self.fmas, loads=runs * self.loads, groups=runs * self.groups,
                       permutes=runs * self.permutes, tiles=runs * self.tiles,
                       l2_bytes=runs * self.l2_bytes + (runs - 1) * self.memory_bytes)


@dataclass(frozen=True)
class GpuWork:
    """What one run of a product on tensor cores does.

    Attributes:
        nbytes: bytes that come from memory or go there.
        blocks: thread blocks.
        threads, shared_bytes: threads and shared memory of a block.
        stages: stages of K that a block multiplies, one after the other.
        stages_in_flight: stages that arrive while one is multiplied.
        stage_fmas: multiply-adds of a stage as a dense product counts them; half of them are done where `sparse`.
        stage_bytes: bytes that come from the L2 cache for a stage.
        stage_copies: pieces that the activations of a stage are copied in.
        sparse: the weight is 2:4.
        warp_groups: the products are those of warp groups.
        stage_decoded: elements of the weight that a stage expands in registers.
        stage_items: products of eight weights that 2:4 leaves over with eight columns, in a stage.
        stage_gathered: weights of a stage that are multiplied, each, with activations gathered from shared memory.
        gathered_columns: columns of activations that a gather brings.
        launches: kernels.
        partial_bytes: bytes of partial sums that are written, and then read by a second kernel.
        rate: products for one of half precision.
        exchanged_bytes: bytes of partial sums that blocks of a cluster read from each other's shared memory.
        kernel, tile: the family, and outputs x columns of a block: what a device may have been measured by.
        like: the family that computes the same in half precision, where this one does not; it stands for what was not
            measured.
        columns: tokens or pixels.

    """

    nbytes: float
    blocks: int
    threads: int
    shared_bytes: int
    stages: int
    stages_in_flight: int
    stage_fmas: float
    stage_bytes: float
    stage_copies: float
    sparse: bool = False
    warp_groups: bool = False
    stage_decoded: float = 0.0
    stage_items: float = 0.0
    stage_gathered: float = 0.0
    gathered_columns: int = 1
    launches: int = 1
    partial_bytes: float = 0.0
    exchanged_bytes: float = 0.0
    kernel: str = ""
    tile: str = ""
    like: str = ""
    rate: float = 1.0
    columns: int = 1


@dataclass(frozen=True)
class Option:
    """One way to run a layer.

    Attributes:
        format: how the weight is stored: a storage format's name with its parameters, such as "bcsr 4x1".
        kernel: the kernel and its mode.
        detail: the kernel's tiling, for people.
        params: the kernel's parameters.
        nbytes: bytes of the stored weight.
        work: what a run does, in units that the target's rates price.
        codec: how values are stored, a key of `formats.CODECS`; empty: as the model, or a GPU's precision, has them.
        family: the kernel family, a key of the target's table; empty for what is no kernel.
        replaces: the kernel whose place it takes, for it does the same but what zeros among activations spare it.
        ieee: infinities reach the outputs as in a product of numbers as they are.
        joined: it computes the layer behind as well, so that its time is no other option's.
        encodes: another kernel makes the codes of its activations first.

    """

    format: str
    kernel: str
    detail: str
    params: Hashable = field(repr=False)
    nbytes: int
    work: Work | GpuWork
    codec: str = ""
    family: str = ""
    replaces: str = ""
    ieee: bool = True
    joined: bool = False
    encodes: bool = False

    @property
    def name(self) -> str:
        """The format with the codec, for tables; float32 is not mentioned."""
        return self.format if self.codec in ("", "f32") else f"{self.format} {self.codec}"

    @property
    def cpu_work(self) -> Work:
        """The work, of a kernel for CPUs."""
        assert isinstance(self.work, Work), self.kernel
        return self.work

    @property
    def is_dense(self) -> bool:
        """Whether zeros are stored like other values."""
        return self.format == "dense"

    @property
    def keeps_ieee(self) -> bool:
        """Whether NaN and infinity reach the output as in a float product: zeros multiply, and values are floats."""
        return self.is_dense and self.codec not in CALIBRATED and not self.replaces and self.ieee
