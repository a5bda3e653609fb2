"""The CUDA backend, as the compiler and sessions ask it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from sparsec.backends.base import Backend, Built, Judge, KernelTime
from sparsec.backends.cuda import driver
from sparsec.backends.job import Feeds, Job, Measurer
from sparsec.backends.program import Later, Needs
from sparsec.cost.precisions import CALIBRATED, GPU_PRECISIONS
from sparsec.errors import ArtifactError
from sparsec.machine.memory import Memory
from sparsec.target import CUBLASLT, LIBRARIES, Target

if TYPE_CHECKING:  # see `backends.base`
    import numpy as np
    import onnx_ir as ir

    from sparsec.backends.chain import Chain
    from sparsec.cost.calibration import Calibration
    from sparsec.cost.gpu import Device
    from sparsec.cost.option import Option
    from sparsec.graph.sized import Attention, Computed, Convolution


FP8_TARGETS = ("sm_89",), ("sm_90",)
"""Architectures of the targets that have products of e4m3."""


class CudaBackend(Backend):
    """Kernels of tensor cores in one fat binary, priced by rates of GPUs, which need not be at hand."""

    kind = "cuda"
    precisions = GPU_PRECISIONS
    goals = ("latency",)
    explains = profiles = projects = sized = True
    rows = (1, 16, 128, 1024)
    image_rows = (1, 8)
    more_rows = ()
    device = "GPU"
    provider = "CUDAExecutionProvider"

    def calibration(self, target: Target, threads: int) -> Calibration:  # noqa: ARG002 - those of the host
        """What `sparsec calibrate` measured of the GPU at hand, else those that stand for the first architecture."""
        from sparsec.backends.cuda.rates import rates_of

        return rates_of(target)

    def options(self, node: ir.Node, job: Job) -> list[Option]:
        """Those that all architectures of the target can run."""
        return self.offers(node, job)[0]

    def offers(self, node: ir.Node, job: Job) -> tuple[list[Option], dict[str, str]]:
        """The options, and why the weight cannot be arranged otherwise, or what makes a format pointless."""
        from sparsec.backends.cuda.planning import layer_options, measured

        return measured(*layer_options(node, job.target, job.precision))

    def options_by_columns(self, node: ir.Node, job: Job) -> dict[int, list[Option]]:
        """Those of a linear layer for few to many tokens."""
        from sparsec.backends.cuda.planning import by_bucket

        return by_bucket(node, job.target, job.precision)

    def outside(self, node: ir.Node) -> str | None:
        """Why an attention runs step by step."""
        from sparsec.backends.cuda.planning import outside

        return outside(node)

    def judge(self, graph: ir.Model, job: Job) -> Judge:
        """By products on what the layers see, which also calibrates 8 bits where the inputs are real."""
        from sparsec.backends.cuda.accuracy import judge

        return judge(graph, job) if job.precision in CALIBRATED else super().judge(graph, job)

    def reject_precision(self, target: Target, precision: str) -> str | None:
        """Products of e4m3 are those of one architecture at a time."""
        if precision != "fp8" or target.archs in FP8_TARGETS:
            return None
        way = "compile for cuda-sm89 or for cuda-sm90, or choose int8"
        if without := [arch for arch in target.archs if (arch,) not in FP8_TARGETS]:
            return f"{' and '.join(without)} {'have' if len(without) > 1 else 'has'} no products of e4m3; {way}"
        return f"e4m3 is for one architecture at a time, sm_89 or sm_90; {way}"

    def reject_dependent_launch(self, target: Target) -> str | None:
        """Those that have no such launches."""
        from sparsec.backends.cuda.dependent import reject

        return reject(target.archs)

    def widened(self, node: ir.Node, option: Option, job: Job) -> str | None:
        """Why a layer is computed in half precision that might have 8 bits."""
        from sparsec.backends.cuda.accuracy import widened

        return widened(node, option, job)

    def join(self, graph: ir.Model, job: Job) -> None:
        """Projections that one attention reads become one product."""
        from sparsec.backends.cuda.joining import join

        join(graph, job.target, job.precision, job.calibration.machine)

    def division(self, weights: Sequence[np.ndarray], job: Job) -> Sequence[Sequence[int]]:
        """As predicted for few to many rows together."""
        from sparsec.backends.cuda.joining import division

        return division(weights, job.target, job.precision, job.calibration.machine)

    def project(self, node: ir.Node) -> float | None:
        """Keep the two largest of every four weights along the inputs."""
        from sparsec.backends.cuda.planning import project

        return project(node)

    def measurer(self, target: Target, url: str | None = None) -> Measurer | None:  # noqa: ARG002 - no servers
        """The GPU at hand, where it runs the target's code."""
        from sparsec.backends.cuda.measuring import measurer

        return measurer(target)

    def prepare(self, node: ir.Node, option: Option, job: Job) -> Callable[[], float]:
        """With weights as cold as the rest of a network leaves them."""
        from sparsec.backends.cuda.measuring import prepare

        return prepare(node, option, job.target)

    def build(self, graph: ir.Model, job: Job) -> Built:
        """A shared object with code for every architecture; nvcc compiles it."""
        from sparsec.backends.cuda.build import build
        from sparsec.backends.cuda.lower import lower

        job.announce("lower")
        lowered = lower(graph, job.target, job.precision)
        job.announce("build")
        return Built(build(lowered, overlap=_overlaps(job)))

    def lacking(self, graph: ir.Model, job: Job) -> Mapping[str, str]:
        """As lowering finds out."""
        from sparsec.backends.cuda.lower import lacking

        return lacking(graph, job.target, job.precision)

    def half(self, job: Job) -> str:
        """That of the tensor cores' operands."""
        from sparsec.kernels.cuda.params import HALVES

        return HALVES[job.precision]

    def node_seconds(self, graph: ir.Graph, job: Job) -> Iterable[tuple[ir.Node, float]]:
        """Of products what is predicted or was measured, of others a launch."""
        from sparsec.backends.cuda.planning import node_seconds

        return node_seconds(graph, cast("Device", job.calibration.machine).launch_s)

    def build_functions(self, graph: ir.Model, job: Job,
                        parts: Sequence[tuple[Sequence[ir.Value], Sequence[ir.Value]]],
                        chain: Chain | None = None) -> Later:  # noqa: ARG002 - there are none here
        """A shared object with code for every architecture."""
        from sparsec.backends.cuda.build import build_functions
        from sparsec.backends.cuda.lower import lower_parts

        lowered = lower_parts(graph, parts, job.target, job.precision)
        return build_functions(*lowered, job.target, overlap=_overlaps(job))

    def side_by_side(self) -> AbstractContextManager[None]:
        """Of nvcc's."""
        from sparsec.backends.cuda.library import side_by_side

        return side_by_side()

    def needs_of_all(self, needs: Sequence[Needs]) -> Needs:
        """Those of code that runs on one architecture alone, where there is such, and the libraries of all."""
        found = max(needs, key=lambda each: any(driver.is_exact(str(arch)) for arch in each["archs"]), default={})
        called = tuple(sorted({each for every in needs for each in every.get("libraries", ())}))
        return {**found, "libraries": called} if called else found

    def build_sized_kernels(self, attentions: Sequence[Attention], rotations: Sequence[tuple[int, bool]],
                            job: Job, *, levels: bool, windows: Sequence[str] = (), suppression: bool = False,
                            convolutions: Sequence[Convolution] = (), caches: bool = False,
                            recurrences: Sequence[ir.Node] = (), computed: Sequence[Computed] = (),
                            ) -> tuple[Later, Mapping[str, object]]:
        """Kernels by the names of their numbers; copies."""
        from sparsec.backends.cuda.between import Wanted, build

        assert not suppression  # which the plan leaves to the processor
        assert not convolutions  # of which this offers none
        return build(Wanted(attentions, rotations, windows, recurrences, computed, levels=levels, caches=caches),
                     job.target, self.half(job), overlap=_overlaps(job))

    def computes(self, operator: str, given: Sequence[str], made: str) -> Sequence[Computed] | str:
        """Reductions, element-wise operators, choices by index."""
        from sparsec.backends.cuda.computed import kernels_of

        return kernels_of(operator, given, made)

    def chained(self, kernel: Computed, before: Sequence[Computed | None]) -> Computed | None:
        """One kernel of several element-wise operators."""
        from sparsec.backends.cuda.computed import chained

        return chained(kernel, before)

    def rejects_attention(self, attention: Attention, job: Job) -> str | None:
        """Those that the kernel for fixed sizes rejects, and more."""
        from sparsec.backends.cuda.between import rejected

        return rejected(attention, self.half(job))

    def rejects_recurrence(self, cell: str, hidden: int) -> str | None:
        """Those whose state is too large for a multiprocessor."""
        from sparsec.backends.cuda.recurrences import reject

        return reject(cell, hidden)

    def reject_needs(self, needs: Needs) -> str | None:
        """Whether they are architectures, and the two parts of a version."""
        if set(needs) - {"archs", "ptx", "workspace", "libraries"}:
            return super().reject_needs(needs)
        for arch in needs.get("archs", ()):
            if not isinstance(arch, str) or not re.fullmatch(r"sm_[0-9]{2,3}a?", arch):
                return f"an architecture is {str(arch)[:32]!r}"
        if unknown := set(needs.get("libraries", ())) - LIBRARIES.keys():
            return f"a library is {str(unknown.pop())[:32]!r}"
        for name, told in (("ptx", "a version of CUDA"), ("workspace", "the memory of intermediate values")):
            if not all(isinstance(each, int) and each >= 0 for each in needs.get(name, ())):
                return f"{told} is {str(needs[name])[:32]!r}"
        return None

    def memory(self, needs: Needs) -> Memory:
        """The memory of the GPU that runs the code."""
        from sparsec.backends.cuda.device import open_memory

        if "workspace" not in needs:
            raise ArtifactError("the artifact is of a version of sparsec whose programs for GPUs cannot be recorded; "
                                "compile the model again")
        return open_memory(*_code(needs), _libraries(needs))

    def check(self, needs: Needs) -> None:
        """Check that there is a GPU that takes the code, and what it calls."""
        from sparsec.backends.cuda import cublaslt

        driver.check(driver.probe(), *_code(needs))
        if CUBLASLT in _libraries(needs):
            cublaslt.load()

    def missing(self, needs: Needs | None = None) -> str | None:
        """What a GPU needs that is not here, or a library."""
        from sparsec.backends.cuda import cublaslt

        found = driver.missing(driver.probe())
        return cublaslt.absent() if found is None and CUBLASLT in _libraries(needs or {}) else found

    def require(self, target: Target) -> None:
        """Check that there is a GPU, and one that takes the target's code."""
        super().require(target)
        driver.check(driver.probe(), target.archs, ())  # a newer driver's PTX is checked when there is some

    def profile(self, graph: ir.Model, job: Job, feeds: Feeds) -> list[KernelTime]:
        """Each kernel by itself, replayed with the inputs that the model gives it."""
        from sparsec.backends.cuda.lower import lower
        from sparsec.backends.cuda.profile import profile

        job.announce("lower")
        lowered = lower(graph, job.target, job.precision)
        job.announce("profile", 1.0)
        return profile(lowered, feeds)

    def replay(self, call: Callable[[], object]) -> Callable[[], float]:
        """By a CUDA graph of the kernels."""
        from sparsec.backends.cuda.replay import replay

        return replay(call)


def _overlaps(job: Job) -> bool:
    """Whether kernels are launched before those in front of them have ended; who measures that compiles both ways."""
    return job.options.dependent_launch == "on"


def _code(needs: Needs) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The architectures that a program holds code for, and the version of CUDA of its PTX."""
    return tuple(map(str, needs.get("archs", ()))), tuple(map(int, needs.get("ptx", ())))


def _libraries(needs: Needs) -> tuple[str, ...]:
    """The libraries that a program calls."""
    return tuple(map(str, needs.get("libraries", ())))
