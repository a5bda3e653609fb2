"""The CUDA backend, as the compiler and sessions ask it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparsec.backends.base import Backend, Built, KernelTime
from sparsec.backends.cuda import driver
from sparsec.backends.job import Feeds, Job, Measurer
from sparsec.backends.program import Needs
from sparsec.cost.precisions import GPU_PRECISIONS
from sparsec.errors import ArtifactError
from sparsec.machine.memory import Memory
from sparsec.target import Target

if TYPE_CHECKING:  # see `backends.base`
    import onnx_ir as ir

    from sparsec.cost.calibration import Calibration
    from sparsec.cost.option import Option


class CudaBackend(Backend):
    """Kernels of tensor cores in one fat binary, priced by the data sheets of GPUs, which need not be at hand."""

    kind = "cuda"
    precisions = GPU_PRECISIONS
    goals = ("latency",)
    explains = profiles = projects = True
    device = "GPU"
    provider = "CUDAExecutionProvider"

    def calibration(self, target: Target, threads: int) -> Calibration:  # noqa: ARG002 - those of the host
        """The rates of the GPU that stands for the first architecture."""
        from sparsec.cost import gpu
        from sparsec.cost.calibration import Calibration

        device = gpu.DEVICES[target.archs[0]]
        return Calibration(device, device.source.format(name=device.name))

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

    def join(self, graph: ir.Model, job: Job) -> None:
        """Projections that one attention reads become one product."""
        from sparsec.backends.cuda.joining import join

        join(graph, job.target, job.precision, job.calibration.machine)

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
        return Built(build(lowered))

    def reject_needs(self, needs: Needs) -> str | None:
        """Whether they are architectures, and the two parts of a version."""
        if set(needs) - {"archs", "ptx", "workspace"}:
            return super().reject_needs(needs)
        for arch in needs.get("archs", ()):
            if not isinstance(arch, str) or not re.fullmatch(r"sm_[0-9]{2,3}a?", arch):
                return f"an architecture is {str(arch)[:32]!r}"
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
        return open_memory(*_code(needs))

    def check(self, needs: Needs) -> None:
        """Check that there is a GPU that takes the code."""
        driver.check(driver.probe(), *_code(needs))

    def missing(self) -> str | None:
        """What a GPU needs that is not here."""
        return driver.missing(driver.probe())

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


def _code(needs: Needs) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The architectures that a program holds code for, and the version of CUDA of its PTX."""
    return tuple(map(str, needs.get("archs", ()))), tuple(map(int, needs.get("ptx", ())))
