"""What attention takes by the cost model of `cost/gpu.py`, and among how many blocks the keys of a query are divided.

The rates are those of products; attention has not been measured with lists of keys or with divided keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sparsec.cost.gpu import LATENCY_S, NEXT_S, Device
from sparsec.cost.option import GpuWork
from sparsec.kernels.cuda.attention_params import ITEMSIZE, STAGES, STEP, AttentionParams
from sparsec.kernels.cuda.params import VECTOR_BYTES
from sparsec.kernels.divided_keys import FASTER, MOST, SPLITS, partial_length

LIST_S = 0.5e-6
"""What a block waits for its list: two loads, one after the other."""
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Visits:
    """Stages of keys that the blocks of queries go over.

    Attributes:
        mean: on average.
        longest: of the block that goes over most.

    """

    mean: float
    longest: float


def every(p: AttentionParams) -> Visits:
    """Those without lists."""
    return Visits(p.key_blocks, p.key_blocks)


def assumed(p: AttentionParams) -> Visits:
    """Those with lists of a mask that only runs know: half where it differs by query, as causal ones do, else most."""
    assert p.mask is not None
    return Visits(0.5 * p.key_blocks, p.key_blocks) if p.mask[2] > 1 else Visits(*[0.9 * p.key_blocks] * 2)


def seconds(p: AttentionParams, visits: Visits, device: Device) -> float:
    """The time of an attention: no less than the longest block takes while it has a multiprocessor for itself."""
    whole = _work(p, visits.mean)
    longest = replace(_work(p, visits.longest), blocks=min(whole.blocks, device.multiprocessors))
    return max(device.seconds(whole), device.seconds(longest)) + LIST_S * p.listed


def divided(p: AttentionParams, visits: Visits, device: Device) -> AttentionParams:
    """The parameters with the number of blocks that share keys which takes the least time."""
    offers = [replace(p, splits=splits) for splits in SPLITS if splits == 1 or (
        splits <= visits.longest and partial_length(p.rows, p.width, splits) <= MOST)]
    return min(offers, key=lambda offer: seconds(offer, visits, device) * (FASTER if offer.splits == 1 else 1))


def rates(p: AttentionParams, device: Device) -> dict[str, float]:
    """Of a block: the keys of a stage, how many blocks a multiprocessor holds, and a stage's seconds.

    Of these, it waits for a stage to arrive, however little it works, and works on its own if it has not to wait.
    """
    work = replace(_work(replace(p, batch=1, heads=1), 1), blocks=1, stages=1)
    resident = min(device.shared_bytes // work.shared_bytes, device.threads // work.threads)
    return {"keys": p.tile.keys, "resident": max(1, resident), "wait_s": LATENCY_S / (STAGES - 1),
            "work_s": device.compute(replace(work, stages_in_flight=1 << 30))}


def list_seconds(p: AttentionParams, device: Device) -> float:
    """The time of the kernels that list which keys a mask shows."""
    return 2 * NEXT_S + FLOAT * _elements(p) / device.memory_bytes_per_s


def _elements(p: AttentionParams) -> int:
    """Those of the mask."""
    batch, heads, queries, keys = p.mask or (0, 0, 0, 0)
    return batch * heads * queries * keys


def _work(p: AttentionParams, stages: float) -> GpuWork:
    """What a run does whose blocks go over so many stages, before these are divided."""
    tile, parts = p.tile, partial_length(p.rows, p.width, p.splits) if p.splits > 1 else 0
    copied = STAGES * tile.keys * p.width * ITEMSIZE
    own = p.batch * p.heads * p.width * ITEMSIZE
    return GpuWork(
        nbytes=2 * own * (p.queries + p.keys * stages / p.key_blocks) + FLOAT * _elements(p),
        partial_bytes=2 * FLOAT * parts, blocks=p.blocks * p.splits, threads=tile.threads, shared_bytes=p.shared_bytes,
        stages=max(1, math.ceil(stages / p.splits)), stages_in_flight=STAGES - 1,
        stage_fmas=2 * tile.queries * tile.keys * p.steps * STEP,
        stage_bytes=copied + FLOAT * tile.queries * tile.keys * (p.mask is not None),
        stage_copies=copied / VECTOR_BYTES, launches=2 if p.splits > 1 else 1)
