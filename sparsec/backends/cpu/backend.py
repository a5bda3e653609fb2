"""The CPU backend, as the compiler and sessions ask it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from sparsec.backends.base import Backend, Built, Judge, KernelTime, PricedConvolution
from sparsec.backends.job import Feeds, Job, Measurer
from sparsec.backends.program import REPLAY, Function, Functions, Later
from sparsec.cost.precisions import PRECISIONS
from sparsec.target import Target

if TYPE_CHECKING:  # see `backends.base`
    import onnx_ir as ir

    from sparsec.backends.chain import Chain
    from sparsec.backends.relax.lower import Lowered
    from sparsec.cost.calibration import Calibration
    from sparsec.cost.option import Option
    from sparsec.cost.roofline import Machine
    from sparsec.graph.sized import Attention, Computed, Convolution


class CpuBackend(Backend):
    """Kernels by TVM's LLVM, priced by the roofline and timed where the compiler runs or on other machines."""

    kind = "cpu"
    precisions = PRECISIONS
    explains = divides = sized = chains = profiles = measures_elsewhere = True

    def calibration(self, target: Target, threads: int) -> Calibration:
        """Measured on the machine at hand, by `sparsec calibrate` or at its first use."""
        from sparsec.backends.cpu.rates import rates_of

        return rates_of(target, threads)

    def options(self, node: ir.Node, job: Job) -> list[Option]:
        """Those of convolutions and linear layers, in the layouts that the layout pass has chosen."""
        return self.offers(node, job)[0]

    def offers(self, node: ir.Node, job: Job) -> tuple[list[Option], dict[str, str]]:
        """The options, and why kernel families have none.

        Where kernels join a float32 layer with the one behind, those are its sparse ones, and those of their family:
        times of others, which leave that layer out, can be compared with theirs only to the others' advantage, as dense
        ones of other families are.
        """
        from sparsec.backends.cpu.layers import offers_of
        from sparsec.kernels.emit.isa import isa_of

        options, refused = offers_of(node, job.target, isa_of(job.target, job.threads), job.precision)
        families = {each.family for each in options if each.joined}
        joins = bool(families) and job.precision == "fp32" and not job.options.strict_ieee
        return [each for each in options if each.joined == joins or (
            joins and each.is_dense and each.family not in families)], refused

    def recipe(self, option: Option) -> Hashable | None:
        """The family's."""
        from sparsec.kernels.cpu.families import FAMILIES

        return FAMILIES[option.family].recipe(option.params)

    def judge(self, graph: ir.Model, job: Job) -> Judge:
        """By products on what the layers see, which also calibrates 8-bit integers where the inputs are real."""
        from sparsec.backends.cpu.accuracy import judge

        return super().judge(graph, job) if job.precision == "fp32" else judge(graph, job)

    def measurer(self, target: Target, url: str | None = None) -> Measurer | None:
        """The machine at hand, if it has the target's instructions, or the servers behind TVM's RPC tracker."""
        from sparsec.backends.cpu import planning, remote

        return planning.measurer(target) if url is None else remote.connect(url)

    def prepare(self, node: ir.Node, option: Option, job: Job) -> Callable[[], float]:
        """With inputs and weights as cold as the rest of a network leaves them."""
        from sparsec.backends.cpu.planning import prepare

        return prepare(node, option, job.target, job.threads)

    def node_seconds(self, graph: ir.Graph, job: Job) -> Iterable[tuple[ir.Node, float]]:
        """By the roofline, with activations that pass through the caches between layers."""
        from sparsec.cost.residency import node_seconds

        return node_seconds(graph, cast("Machine", job.calibration.machine), job.target, job.threads)

    def build(self, graph: ir.Model, job: Job) -> Built:
        """A shared object of LLVM's code; weights are stored in formats unless latency is the goal."""
        from sparsec.backends.cpu.build import build
        from sparsec.backends.cpu.storage import packed_weights

        lowered = self._lower(graph, job)
        job.announce("build")
        program = build(lowered)
        if job.options.optimize != "latency":
            program = replace(program, packed=packed_weights(graph, lowered.constants))
        return Built(program)

    def build_functions(self, graph: ir.Model, job: Job,
                        parts: Sequence[tuple[Sequence[ir.Value], Sequence[ir.Value]]],
                        chain: Chain | None = None) -> Later:
        """A shared object of LLVM's code with a function for every part, and the chain's behind them."""
        from sparsec.backends.cpu.build import build_functions
        from sparsec.backends.cpu.lower import lower_parts

        module, functions = lower_parts(graph, parts, job.target, job.threads, job.precision, chain)
        built = build_functions(module, functions, job.target, job.threads)
        return lambda: built

    def build_sized_kernels(self, attentions: Sequence[Attention], rotations: Sequence[tuple[int, bool]],
                            job: Job, *, levels: bool, windows: Sequence[str] = (), suppression: bool = False,
                            convolutions: Sequence[Convolution] = (), caches: bool = False,  # noqa: ARG002 - in place
                            recurrences: Sequence[ir.Node] = (),  # noqa: ARG002 - built by numbers of members
                            computed: Sequence[Computed] = (),  # noqa: ARG002 - numpy computes them
                            ) -> tuple[Later, Mapping[str, object]]:
        """Kernels by the name of their number."""
        from sparsec.backends.cpu import replay
        from sparsec.backends.cpu.build import build_kernels
        from sparsec.backends.cpu.convolutions import BUILDERS
        from sparsec.kernels.cpu.tensors import (
            sized_attention,
            sized_levels,
            sized_rotary,
            sized_suppression,
            sized_windows,
        )
        from sparsec.kernels.emit.isa import isa_of

        isa = isa_of(job.target, job.threads)
        built = {f"attention{number}": sized_attention.build(sized_attention.SizedAttention(*each[:4]), isa)
                 for number, each in enumerate(attentions)}
        built |= {f"rotary{number}": sized_rotary.build(sized_rotary.SizedRotary(*each), isa)
                  for number, each in enumerate(rotations)}
        built |= {f"windows_{kind}": sized_windows.build(kind, isa) for kind in windows}
        built |= {f"windows_{each.kind}{number}": BUILDERS[each.kind](each, isa, job.target.l2_bytes)
                  for number, each in enumerate(convolutions)}
        built |= {"levels": sized_levels.build(isa)} if levels else {}
        built |= {"suppression": sized_suppression.build(isa)} if suppression else {}
        built[REPLAY] = replay.build()
        scratch = {"pair": sized_attention.padded(1, isa), "rows": sized_attention.heights(isa)[0],
                   "threads": isa.threads}
        functions = Functions(*build_kernels(built, job.target), ())
        return lambda: functions, scratch

    def convolutions(self, shape: Sequence[int], job: Job, pixels: int, *, strided: bool) -> list[PricedConvolution]:
        """By the kernels of `kernels.cpu.tensors`, each in the width that is predicted to be the fastest."""
        from sparsec.backends.cpu.convolutions import offers
        from sparsec.kernels.emit.isa import isa_of

        machine, threads = job.calibration.machine, job.threads
        return offers(shape, pixels, isa_of(job.target, threads), lambda work: machine.seconds(work, threads),
                      strided=strided)

    def build_recurrences(self, nodes: Sequence[ir.Node], job: Job) -> Functions:
        """A shared object of LLVM's code."""
        from sparsec.backends.cpu.build import build_kernels
        from sparsec.backends.cpu.recurrence import of_any_length
        from sparsec.kernels.emit.isa import isa_of

        isa = isa_of(job.target, job.threads)
        built = {f"recurrence{number}": of_any_length(node, isa) for number, node in enumerate(nodes)}
        library, objects = build_kernels({name: kernel for name, (kernel, _) in built.items()}, job.target)
        return Functions(library, objects, tuple(Function(name, arrays) for name, (_, arrays) in built.items()))

    def profile(self, graph: ir.Model, job: Job, feeds: Feeds) -> list[KernelTime]:
        """In order, with the caches as its neighbours leave them."""
        from sparsec.backends.cpu.profile import profile

        lowered = self._lower(graph, job)
        job.announce("profile", 1.0)
        return profile(lowered, feeds)

    def lacking(self, graph: ir.Model, job: Job) -> Mapping[str, str]:
        """As lowering finds out."""
        from sparsec.backends.cpu.lower import lacking

        return lacking(graph, job.target, job.threads, job.precision)

    def _lower(self, graph: ir.Model, job: Job) -> Lowered:
        from sparsec.backends.cpu.lower import lower

        job.announce("lower")
        return lower(graph, job.target, job.threads, job.precision)
