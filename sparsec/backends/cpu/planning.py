"""What the plan needs of this backend: the options of every layer, and the time that one takes on this machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import onnx_ir as ir
import tvm
from tvm import tirx

from sparsec.backends.cpu.build import settings
from sparsec.backends.cpu.calls import KernelCall, build, call
from sparsec.backends.cpu.layers import layer_of, offers_of, repeats
from sparsec.backends.cpu.rates import rates_of
from sparsec.cost.option import Option, Work
from sparsec.cost.roofline import FORK_S
from sparsec.cost.tuning import CACHED_BYTES, SHARING
from sparsec.graph.annotations import NETWORK
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.emit.isa import isa_of
from sparsec.machine import tvm_runtime
from sparsec.machine.cpus import available
from sparsec.target import Target, lacking, machine_name

COLD = 2  # times the L2 cache: the activations that repeated runs cycle through
MAX_COPIES = 64
REPEAT_S, REPEATS = 1e-3, 4  # one repeat is long enough for the clock
LEAST_S = 1e-8  # of a call, where the clock has not moved


@dataclass(frozen=True)
class Here:
    """The machine at hand, which times one kernel after the other."""

    machine: str
    workers: int = 1
    here: bool = True

    def prepare(self, options: Sequence[Option], target: Target, threads: int) -> None:
        """Compile the kernels on all processors; nothing is timed meanwhile."""
        kernels = dict.fromkeys(build(each.family, each.params, isa_of(target, threads)) for each in options)
        with ThreadPoolExecutor(available()) as pool:
            list(pool.map(partial(_compile, target=target), kernels))

    def measure(self, node: ir.Node, option: Option, target: Target, threads: int) -> float:
        """Seconds for a node, with inputs and weights as cold as the rest of a network leaves them."""
        return prepare(node, option, target, threads)()


def measurer(target: Target) -> Here | None:
    """The machine at hand, None where it lacks instructions of the target."""
    return None if lacking(target) else Here(machine_name())


def layer_options(node: ir.Node, target: Target, threads: int, precision: str = "fp32") -> list[Option]:
    """The options for a node of a laid-out graph, none where it is no layer with a weight of its own."""
    return offers_of(node, target, isa_of(target, threads), precision)[0]


def kernel_call(node: ir.Node, option: Option, target: Target, threads: int) -> KernelCall:
    """The kernel of an option with the node's constants."""
    isa = isa_of(target, threads)
    layer = layer_of(node, isa)
    assert layer is not None  # it has options
    return call(layer, option, isa)


def prepare(node: ir.Node, option: Option, target: Target, threads: int) -> Callable[[], float]:
    """Compile an option for a node and pack the weight; the result times it."""
    kernel, runs, network = kernel_call(node, option, target, threads), repeats(node), NETWORK.get(node)
    timed = prepare_call(kernel, target, threads, network)
    work = option.work
    assert isinstance(work, Work)
    if threads == 1 or work.serial:
        return lambda: timed() * runs
    alone = prepare_call(kernel, target, 1, network)  # one thread does the shares of all
    least = rates_of(target, threads).machine.least_seconds(work, 0, target.lanes, threads) / runs
    share = largest_share(option, threads)
    return lambda: undisturbed(timed(), alone() * share, least) * runs


def largest_share(option: Option, threads: int) -> float:
    """The share of the work of the thread that does most; 1 where a kernel's tiling does not tell."""
    t = getattr(option.params, "tiling", None)
    if not isinstance(t, Tiling):
        return 1.0
    units = t.joined.count if t.joined else t.stencil.segments * t.tiles * (t.parts // t.bands)
    return -(-units // threads) / units


def undisturbed(together: float, share: float, least: float) -> float:
    """Seconds of several threads, measured together, by the largest share of one, measured by itself.

    Other programs make a run of several threads last several times as long, and the processor time of one hardly
    longer. What all threads need of memory is no less for sharing it: `least` seconds.
    """
    return min(together, FORK_S + SHARING * max(share, least))


def prepare_call(kernel: KernelCall, target: Target, threads: int, network: float | None = None) -> Callable[[], float]:
    """`prepare` for a kernel with its constants; `network` as `graph.annotations.NETWORK` has it, None: much."""
    return partial(_time, kernel, _compile(kernel.kernel, target=target), target, threads, network)


@lru_cache(maxsize=512)
def _compile(kernel: tirx.PrimFunc, target: Target) -> Callable[..., None]:
    """The kernel as a function; equal layers share the kernel's object."""
    with settings(target, checked=False) as llvm:
        function: Callable[..., None] = tvm.compile(kernel.with_attr("global_symbol", "main"), target=llvm)["main"]
    return function


def _time(kernel: KernelCall, function: Callable[..., None], target: Target, threads: int,
          network: float | None) -> float:
    """The shortest time of a call in seconds, on one thread of the processor, which other programs hardly lengthen.

    The calls go round copies of the weight, as many as the network has weights of its size, up to what no cache holds.
    """
    weights = sum(array.nbytes for array in kernel.constants)
    cycled = CACHED_BYTES if network is None else min(CACHED_BYTES, int(network * weights))
    arguments = zip(itertools.cycle(_copies(kernel.constants, cycled)),
                    itertools.cycle(_copies(kernel.activations(), COLD * target.l2_bytes)))

    clock = time.thread_time if threads == 1 else time.perf_counter

    def seconds(count: int) -> float:
        calls = [(*weights, *others) for weights, others in itertools.islice(arguments, count)]
        begin = clock()
        for each in calls:
            function(*each)
        return (clock() - begin) / count

    def fastest() -> float:
        seconds(1)
        count = int(REPEAT_S / max(seconds(2), LEAST_S)) + 1
        return min(seconds(count) for _ in range(REPEATS))

    return float(tvm_runtime.call(threads, fastest))


def _copies(arrays: Sequence[np.ndarray], nbytes: int) -> list[list[tvm.runtime.Tensor]]:
    """Copies of some arrays, of so many bytes together."""
    count = max(1, round(nbytes / max(1, sum(array.nbytes for array in arrays))))
    return [[tvm.runtime.tensor(array) for array in arrays] for _ in range(min(MAX_COPIES, count))]
