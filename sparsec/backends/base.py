"""What a backend is: how models are planned, compiled, executed and measured for the targets of one kind.

A backend is one object of a subclass, entered in `registry.BACKENDS`. The module that defines it imports neither TVM
nor ONNX, since sessions ask it, too; its methods import what they need.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sparsec.backends.job import Feeds, Job, Measurer
from sparsec.backends.layer_report import LayerReport
from sparsec.backends.program import Functions, Later, Needs, Program
from sparsec.errors import ArtifactError, SparsecError, UnsupportedOperatorError, UsageError
from sparsec.machine.memory import HOST, Memory
from sparsec.target import Target

if TYPE_CHECKING:  # see the module's docstring
    import onnx_ir as ir

    from sparsec.backends.chain import Chain
    from sparsec.cost.calibration import Calibration
    from sparsec.cost.option import Option
    from sparsec.graph.sized import Attention, Computed, Convolution

GOALS = ("latency", "balanced", "size")
"""What a program may be optimised for; see `compiler.options`."""


@dataclass(frozen=True)
class PricedConvolution:
    """A kernel for one of `graph.sized.CONVOLUTIONS`.

    Attributes:
        kind: the operator.
        kernel: as reports name it.
        vectors: of outputs that are computed at once.
        seconds: what the convolution is predicted to take.
        pack: a weight (outputs, channels, sides …) to what the kernel reads, flat.

    """

    kind: str
    kernel: str
    vectors: int
    seconds: float
    pack: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Built:
    """A compiled program.

    Attributes:
        program: what an artifact holds.
        layers: the rows of layers that were not planned, but decided on while compiling.

    """

    program: Program
    layers: tuple[LayerReport, ...] = ()


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel in a run.

    Attributes:
        kernel: the function's symbol.
        node: the graph node it computes, "" for what was fused from several.
        seconds: its median time.

    """

    kernel: str
    node: str
    seconds: float


Execute = Callable[[Feeds], Sequence[np.ndarray]]
"""From inputs by name to the outputs, in order."""
Judge = Callable[["ir.Node", "Option"], float | None]
"""From a layer and an option to the error that the option causes in the layer by itself, None where it is exact."""


class Backend(ABC):
    """How models are compiled for the targets of one kind, and how what was compiled runs.

    Attributes:
        kind: that of its targets.
        precisions: what layers may compute with and the error of an output that this may cause; the first is the
            default.
        limited: the error of an output has a limit; not where the target computes with few bits of its own, so that
            the error is reported and never refused.
        goals: which of `GOALS` it compiles for.
        explains: it offers options for layers and prices them, so that plans can be explained.
        divides: a batch may run in shares of its rows: `graph_seconds` compares them.
        sized: sizes may be such that only the run tells; `build_functions` compiles for them, and `node_seconds` says
            how rows are divided among the functions.
        chains: `build_functions` takes a chain.
        rows, image_rows: the numbers of rows, and of images, that functions for run-time sizes are compiled for.
        more_rows: others, which are compiled where they read weights that are stored for those, and take less.
        profiles: `profile` times kernels.
        measures_elsewhere: `measurer` takes a URL.
        projects: `project` makes weights 2:4.
        device: what its programs run on beside the processor, such as "GPU"; `replay` then times that alone.
        provider: the execution provider of onnxruntime that runs on the same device, "" where that is the processor.

    """

    kind: ClassVar[str]
    precisions: ClassVar[Mapping[str, float]]
    limited: ClassVar[bool] = True
    goals: ClassVar[tuple[str, ...]] = GOALS
    explains: ClassVar[bool] = False
    divides: ClassVar[bool] = False
    sized: ClassVar[bool] = False
    chains: ClassVar[bool] = False
    rows: ClassVar[tuple[int, ...]] = (1, 4, 16, 64)
    image_rows: ClassVar[tuple[int, ...]] = (1, 2, 8)
    more_rows: ClassVar[tuple[int, ...]] = (8, 48)
    profiles: ClassVar[bool] = False
    measures_elsewhere: ClassVar[bool] = False
    projects: ClassVar[bool] = False
    device: ClassVar[str] = ""
    provider: ClassVar[str] = ""

    # Planning

    def calibration(self, target: Target, threads: int) -> Calibration:
        """The rates of a target, and where they come from."""
        from sparsec.cost.calibration import calibration_of

        return calibration_of(target, threads)

    def options(self, node: ir.Node, job: Job) -> list[Option]:  # noqa: ARG002 - none by default
        """The ways to run a node of a prepared graph, none where it is no layer with a weight of its own."""
        return []

    def offers(self, node: ir.Node, job: Job) -> tuple[list[Option], dict[str, str]]:
        """`options`, and why other formats or kernels are not among them, by their names."""
        return self.options(node, job), {}

    def options_by_columns(self, node: ir.Node, job: Job) -> dict[int, list[Option]]:  # noqa: ARG002
        """The options of a layer for other numbers of tokens than the model's."""
        return {}

    def outside(self, node: ir.Node) -> str | None:  # noqa: ARG002
        """Why a node runs without the kernel that its operator has, None where it runs with it."""
        return None

    def lacking(self, graph: ir.Model, job: Job) -> Mapping[str, str]:  # noqa: ARG002 - of some
        """The reason by node of those that the target has no implementation for; types in the graph may change."""
        return {}

    def project(self, node: ir.Node) -> float | None:  # noqa: ARG002
        """Make a layer's weight 2:4; the norm of what is lost relative to the weight's, None where it stays as it is.

        It stays where the node is no such layer, or where its shape allows no groups of four.
        """
        return None

    def join(self, graph: ir.Model, job: Job) -> None:  # noqa: B027 - most leave layers as they are
        """Make one layer of several, in place, where that is predicted to be faster; the graph's passes have run."""

    def division(self, weights: Sequence[np.ndarray], job: Job) -> Sequence[Sequence[int]]:  # noqa: ARG002 - of some
        """Which linear layers of one input are faster as one product at run-time sizes: the numbers of each product's.

        Args:
            weights: (inputs, outputs) of each.
            job: what they are compiled for.

        """
        return [[number] for number in range(len(weights))]

    def recipe(self, option: Option) -> Hashable | None:  # noqa: ARG002
        """How an option's kernel reads the weight: equal ones read the same bytes; None where that is not known."""
        return None

    def judge(self, graph: ir.Model, job: Job) -> Judge:  # noqa: ARG002
        """What tells the errors of options, from what the layers of a prepared graph see in the job's inputs."""
        return lambda _node, _option: None

    def reject_precision(self, target: Target, precision: str) -> str | None:  # noqa: ARG002
        """Why a target of this kind has no such precision, though others have; None where it has it."""
        return None

    def reject_dependent_launch(self, target: Target) -> str | None:  # noqa: ARG002
        """Why kernels of a target cannot be launched before those in front of them have ended; None where they can."""
        return "kernels of processors begin when those in front of them have ended"

    def widened(self, node: ir.Node, option: Option, job: Job) -> str | None:  # noqa: ARG002
        """Why a layer that the model or the precision allows fewer bits has an option of more, None where not so."""
        return None

    def measurer(self, target: Target, url: str | None = None) -> Measurer | None:  # noqa: ARG002
        """What times kernels for a target: this machine if it can, or the servers behind a URL.

        Raises:
            UsageError, CalibrationError: there are no such servers.

        """
        return None

    def prepare(self, node: ir.Node, option: Option, job: Job) -> Callable[[], float]:
        """Compile an option for a node; the result times it here, in seconds."""
        raise UsageError(f"layer '{node.name}': {option.kernel} cannot be timed by itself for '{job.target.name}'; "
                         "choose a cpu target")

    def graph_seconds(self, graph: ir.Graph, job: Job) -> float:
        """The predicted time of a run of a planned graph."""
        return sum(seconds for _, seconds in self.node_seconds(graph, job))

    def node_seconds(self, graph: ir.Graph, job: Job) -> Iterable[tuple[ir.Node, float]]:
        """The predicted time of every node of a planned graph."""
        raise UsageError(f"there is no cost model of whole graphs such as '{graph.name}' for '{job.target.name}'")

    # Compiling

    def half(self, job: Job) -> str:  # noqa: ARG002
        """The half-precision type of floats that stages for run-time sizes pass on, "" where that is float32."""
        return ""

    @abstractmethod
    def build(self, graph: ir.Model, job: Job) -> Built:
        """Compile a planned graph.

        Raises:
            UnsupportedOperatorError: lists every node that cannot be lowered.
            ToolchainError: a compiler or linker is missing or fails.

        """

    def build_functions(self, graph: ir.Model, job: Job,
                        parts: Sequence[tuple[Sequence[ir.Value], Sequence[ir.Value]]],  # noqa: ARG002
                        chain: Chain | None = None) -> Later:  # noqa: ARG002
        """Compile parts of a planned graph, each from its inputs to its outputs, to functions of one library.

        The function of a chain of the parts, where there is one, comes behind them. What other programs compile goes on
        beside the caller, `side_by_side`, who begins all libraries before asking for one.

        Raises:
            UnsupportedOperatorError: as `build`, or there are no run-time sizes on the target.

        """
        raise UnsupportedOperatorError(f"sizes in the model '{graph.graph.name}' are known at run time only, and "
                                       f"target '{job.target.name}' needs static ones; give every dimension a size "
                                       "with dims or shapes, or compile for a cpu")

    def side_by_side(self) -> AbstractContextManager[None]:
        """While it lasts, what other programs compile goes on by itself; what none has begun at its end is dropped."""
        return nullcontext()

    def needs_of_all(self, needs: Sequence[Needs]) -> Needs:
        """What a program of several libraries needs, of which each has needs of its own."""
        return next(iter(needs), {})

    def build_sized_kernels(self, attentions: Sequence[Attention], rotations: Sequence[tuple[int, bool]],
                            job: Job, *, levels: bool, windows: Sequence[str] = (), suppression: bool = False,
                            convolutions: Sequence[Convolution] = (), caches: bool = False,  # noqa: ARG002 - of some
                            recurrences: Sequence[ir.Node] = (), computed: Sequence[Computed] = (),
                            ) -> tuple[Later, Mapping[str, object]]:
        """The library of kernels for run-time sizes, and what calls of attention are told of its kernels.

        Args:
            attentions: of each what the kernel computes.
            rotations: of each the features, and whether its tables have angles for both halves.
            job: what they are compiled for.
            levels: whether there is one, named so, for scales of dynamic quantisation.
            windows: the operators on windows of images that there are kernels for, named `windows_` and so.
            suppression: whether there is one, named so, for NonMaxSuppression.
            convolutions: of each of those that are no rows what the kernel computes.
            caches: whether caches are appended to, for which a device of its own has kernels.
            recurrences: of those that a device of its own has kernels for, named `recurrence` and the number, what
                they compute; their constants are those of the library's functions.
            computed: of those that a device of its own has kernels for, as `computes` tells them.

        """
        count = (len(attentions) + len(rotations) + levels + len(windows) + suppression + len(convolutions)
                 + len(recurrences) + len(computed))
        raise UnsupportedOperatorError(f"there are no {count} kernels for run-time sizes on target "
                                       f"'{job.target.name}'; compile for a cpu")

    def computes(self, operator: str, given: Sequence[str], made: str) -> Sequence[Computed] | str:
        """The kernels of run-time sizes that compute an operator between stages, or why a device has none.

        Args:
            operator: by ONNX's name.
            given: the element types of the operands that are data.
            made: that of the result.

        """
        return f"there is no kernel of '{operator}' of {', '.join((*given, made))}"

    def chained(self, kernel: Computed, before: Sequence[Computed | None]) -> Computed | None:  # noqa: ARG002 - of some
        """A kernel that computes what some operands of another are made of, too, or None.

        Args:
            kernel: of `computes`.
            before: for each of its operands, the kernel that makes it, None where it stays an operand.

        """
        return None

    def convolutions(self, shape: Sequence[int], job: Job, pixels: int, *, strided: bool,  # noqa: ARG002 - of some
                     ) -> list[PricedConvolution]:
        """The kernels for a dense convolution of images of any size, beside a product of rows.

        Args:
            shape: of the weight (outputs, channels, sides …).
            job: what it is compiled for.
            pixels: those of the result that the time is predicted for.
            strided: windows begin further than a pixel apart.

        """
        return []

    def rejects_attention(self, attention: Attention, job: Job) -> str | None:  # noqa: ARG002 - of some
        """Why there is no kernel for an attention of run-time sizes; None where there is one."""
        return None

    def rejects_recurrence(self, cell: str, hidden: int) -> str | None:  # noqa: ARG002 - of some
        """Why there is no kernel for the steps of a recurrent layer of any length; None where there is one."""
        return None

    def build_recurrences(self, nodes: Sequence[ir.Node], job: Job) -> Functions:
        """The library of the kernels of planned recurrences for any number of steps, by `recurrence` and the number.

        Each takes its constants, the numbers of steps and of members of the batch, and then for so many members as the
        node has the inputs' share of the gates, first state, first cell and lengths, the peepholes, and the result.
        """
        raise UnsupportedOperatorError(f"there are no kernels for {len(nodes)} recurrent layers of any length on "
                                       f"target '{job.target.name}'; give every dimension a size with dims or shapes")

    # Running

    def reject_needs(self, needs: Needs) -> str | None:
        """Why no program of this backend has such needs, as a file may claim; None where one may."""
        return f"it needs {', '.join(needs)}, which no program for a {self.kind} does" if needs else None

    def memory(self, needs: Needs) -> Memory:  # noqa: ARG002
        """Where a program with these needs keeps its tensors, on this machine.

        Raises:
            ArtifactError: this machine cannot run it.
            ToolchainError: a library is missing.

        """
        return HOST

    def check(self, needs: Needs) -> None:  # noqa: ARG002
        """Check that this machine can run a program with these needs; raises ArtifactError where it cannot."""
        if (reason := self.missing()) is not None:
            raise ArtifactError(f"the artifact cannot run: here {reason}; run it where there is a {self.device}")

    def missing(self, needs: Needs | None = None) -> str | None:  # noqa: ARG002
        """Why this machine cannot execute what was compiled, or a program with these needs; None if it can."""
        return None

    def require(self, target: Target) -> None:
        """Check that what is compiled for a target can be timed here, before minutes are spent on compiling.

        Raises:
            SparsecError: it cannot; says what is missing and how to measure all the same.

        """
        if (reason := self.missing()) is not None:
            raise SparsecError(f"nothing compiled for '{target.name}' can be timed here: {reason}; compile here with "
                               f"`sparsec compile --target {target.name}` and give the artifact to `sparsec bench` "
                               f"where the {self.device} is")

    def execute(self, constants: Sequence[np.ndarray]) -> Execute | None:  # noqa: ARG002
        """What executes an artifact that holds no program for a session, None where a session does."""
        return None

    def profile(self, graph: ir.Model, job: Job, feeds: Feeds) -> list[KernelTime]:  # noqa: ARG002
        """Time every kernel of a planned graph where it runs; `feeds` has an array for every input."""
        raise UsageError(f"kernels for target '{job.target.name}' do not run here; profile with --target cpu")

    def replay(self, call: Callable[[], object]) -> Callable[[], float]:  # noqa: ARG002
        """What times the kernels alone that a session's `resident` call runs on the device, in seconds."""
        raise UsageError(f"programs of kind '{self.kind}' run on no device of their own, which could be timed alone")
