"""What `sparsec.compile` can be asked for: the one list of its options, checked where they are made.

The command line, portable artifacts and buckets take the same object. A new option is a field here with its types in
`_KINDS` below, and a flag in `cli/compile.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from sparsec.artifact.manifest import MOST_THREADS
from sparsec.backends.base import GOALS, Backend
from sparsec.backends.job import Feeds, ProgramOptions
from sparsec.backends.registry import backend_of
from sparsec.errors import UsageError, meant
from sparsec.formats import CODECS
from sparsec.target import Target, resolve

if TYPE_CHECKING:  # the command line imports this module before it knows what to do
    from sparsec.graph.sizes import Dims, Shapes

P = ParamSpec("P")
Options = TypeVar("Options")
Model = TypeVar("Model")
Result = TypeVar("Result")

TUNE = ("off", "measure")
"""Whether kernels are timed, or the cost model is trusted."""

DEPENDENT_LAUNCH = ("measure", "on", "off")
"""Whether kernels of GPUs are launched before those in front of them have ended."""

Progress = Callable[[str, float], None]
"""Called with the name of the step that begins or goes on and the estimated share of the work done, 0 to 1."""

HERE = {"here": True}
"""The metadata of options that belong to the machine that compiles: portable artifacts do not carry them."""


@dataclass(frozen=True)
class CompileOptions(ProgramOptions):
    """The arguments of `sparsec.compile` beside the model; all but the target are given by name.

    Attributes:
        target: what to compile for; `sparsec targets` lists the names.
        threads: the threads that one inference may use.
        shapes: the full shape of every input with symbolic dimensions, by name. A size may be several, as text such as
            "1..8" or "1/8/32": the artifact then has a bucket for every combination, and a session takes the one that
            has the shapes of its inputs.
        dims: the size of a symbolic dimension by its name, or the range that the run may choose from, as in "1..512".
            What neither `dims` nor `shapes` give the run tells, on CPUs: a session then takes any size.
        verify: compare the outputs with onnxruntime's on random inputs, and on `inputs` where given. Without it int8 is
            compared, too, but reported only.
        inputs: real inputs by name, for the comparison and to calibrate int8, which is compared on nothing else then;
            arrays with n times the rows that the model takes are n samples, of which the first 16 count.
        strict_ieee: let zeros of weights make NaN of infinities and NaN, as IEEE 754 has it: nothing is stripped, and
            layers stay dense. Without it, a zero weight that is skipped hides what it would have multiplied, and
            infinities may become NaN in dense 3x3 convolutions.
        strict: refuse a model with a weighted layer that sparsec's own kernels cannot take.
        tune: "measure" times the best few kernels of every layer here and keeps the times in the user's cache;
            "off" trusts the cost model.
        tune_seconds: what measuring may take in all.
        measure_on: "rpc://HOST:PORT/KEY" measures on the servers of a key behind TVM's RPC tracker, on all of them at
            once, instead of here; the target must be named, not "cpu".
        precision: on CPUs the fewest bits that a layer may compute with, fp32 if not given; every layer takes the best
            kernel that this allows. On GPUs what weights and activations are stored in: fp16, or bf16 for values beyond
            65504; with int8 and inputs, or fp8 and inputs (sm_89 or sm_90 alone), layers multiply 8-bit numbers where
            that is faster; sums are float32, or exact 32-bit integers.
        project_2of4: on GPUs, keep the two largest of every four weights only, whatever that costs in accuracy; the
            report gives every layer's error.
        dependent_launch: on GPUs from sm_90 on, whether a kernel is launched before the one in front of it has ended:
            "on", "off", or "measure": both ways are compiled and timed where tune="measure" times kernels on a GPU,
            and off is what nothing has timed.
        optimize: "latency" takes the fastest kernels and stores weights as they read them; "balanced" takes the same
            kernels and stores every weight in its smallest format, but those of kernels on 8-bit integers; "size" takes
            the smallest kernels that are no slower than dense, too.
        codec: how values are stored where formats are; `sparsec formats` lists the codecs. A lossy one changes the
            float32 weights before anything is chosen; codes of quantised layers stay as they are.
        max_error: the largest error of an output relative to its largest magnitude; without it, the precision's and the
            codec's own; codecs of shared weights have none: the error is reported.
        dump_ir: a directory for the graph after every pass.
        progress: told of every step.

    Raises:
        UsageError: an unknown target, precision, goal, codec or way of tuning, a number out of range, or a target that
            nothing can be compiled for.

    """

    target: str | Target = "cpu"
    _: KW_ONLY
    shapes: Shapes | None = None
    dims: Dims | None = None
    verify: bool = True
    inputs: Feeds | None = field(default=None, metadata=HERE)
    strict: bool = False
    tune: str = "measure"
    tune_seconds: float = 30.0
    measure_on: str | None = field(default=None, metadata=HERE)
    max_error: float | None = None
    dump_ir: str | Path | None = field(default=None, metadata=HERE)
    progress: Progress | None = field(default=None, metadata=HERE)

    def __post_init__(self) -> None:
        self._check_types()
        backend, name = self.backend, self.resolved_target.name
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"threads={self.threads}; give a number from 1 to {MOST_THREADS}")
        if self.precision is not None and self.precision not in backend.precisions:
            raise UsageError(f"precision='{self.precision}' on target '{name}'; "
                             f"{meant(self.precision, backend.precisions)}choose one of "
                             f"{', '.join(backend.precisions)}")
        if self.precision and (reason := backend.reject_precision(self.resolved_target, self.precision)):
            raise UsageError(f"precision='{self.precision}' on target '{name}': {reason}")
        self._check_storage(backend)
        if self.tune not in TUNE:
            raise UsageError(f"tune='{self.tune}'; {meant(self.tune, TUNE)}choose one of {', '.join(TUNE)}")
        if self.max_error is not None and not self.max_error >= 0:
            raise UsageError(f"max_error={self.max_error}; give a number from 0 on")
        if self.project_2of4 and not backend.projects:
            raise UsageError(f"project_2of4=True on target '{name}'; 2:4 weights are for tensor cores, compile for a "
                             "cuda target")
        self._check_dependent_launch(backend)
        if self.measure_on is not None and (self.tune == "off" or not backend.measures_elsewhere):
            raise UsageError(f"measure_on='{self.measure_on}' needs tune='measure' and a cpu target")

    def check_together(self) -> None:
        """Refuse options of which one leaves another without a meaning.

        Raises:
            UsageError: time to measure where nothing is measured, or a limit where nothing is compared or judged.

        """
        if self.tune == "off" and self.tune_seconds != CompileOptions.tune_seconds:
            raise UsageError(f"tune_seconds={self.tune_seconds:g} with tune='off', which measures nothing; leave "
                             "one of them out")
        if not self.verify and self.max_error is not None and self.resolved_precision == "fp32":
            raise UsageError(f"max_error={self.max_error:g} with verify=False, which compares nothing; leave "
                             "one of them out")

    def _check_types(self) -> None:
        """Refuse values of types that an option is not of, by its name."""
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise UsageError(f"{name} is of type {type(value).__name__}; give "
                                 f"{' or '.join(kind.__name__.replace('NoneType', 'None') for kind in kinds)}")
        for name, shape in (self.shapes or {}).items():
            if isinstance(shape, str) or not isinstance(shape, Sequence) or not all(map(_is_size, shape)):
                raise UsageError(f"shapes has {shape!r} for input {name!r}; give a list of sizes, numbers or texts")
        for name, size in (self.dims or {}).items():
            if not _is_size(size):
                raise UsageError(f"dims has {size!r} for {name!r}; give a number, or a range such as '1..512'")

    def _check_dependent_launch(self, backend: Backend) -> None:
        """Refuse what is no way of launching, or none of the target's."""
        asked = self.dependent_launch
        if asked not in DEPENDENT_LAUNCH:
            raise UsageError(f"dependent_launch='{asked}'; {meant(asked, DEPENDENT_LAUNCH)}choose one of "
                             f"{', '.join(DEPENDENT_LAUNCH)}")
        if asked == "on" and (reason := backend.reject_dependent_launch(self.resolved_target)):
            raise UsageError(f"dependent_launch='on' on target '{self.resolved_target.name}': {reason}; leave it out")

    def _check_storage(self, backend: Backend) -> None:
        """Refuse goals and codecs that there are not, alone or together or on the target."""
        optimize, codec = self.optimize, self.codec
        if optimize == "latency" and codec in CODECS and codec != "f32":
            raise UsageError(f"codec='{codec}' with optimize='latency', which stores weights as kernels read them; "
                             "choose optimize='balanced' or optimize='size'")
        if optimize not in GOALS:
            raise UsageError(f"optimize='{optimize}'; {meant(optimize, GOALS)}optimize for one of {', '.join(GOALS)}")
        if codec not in CODECS:
            raise UsageError(f"codec='{codec}'; {meant(codec, CODECS)}store values with one of {', '.join(CODECS)}")
        if optimize not in backend.goals:
            raise UsageError(f"optimize='{optimize}' on target '{self.resolved_target.name}', which stores weights as "
                             f"its kernels read them; compile with optimize='{backend.goals[0]}'")

    @property
    def local(self) -> list[str]:
        """The options given that belong to this machine."""
        return [each.name for each in fields(self)
                if each.metadata.get("here") and getattr(self, each.name) is not None]

    @property
    def resolved_target(self) -> Target:
        """The target that is named."""
        return resolve(self.target)

    @property
    def backend(self) -> Backend:
        """The target's backend."""
        return backend_of(self.resolved_target)

    @property
    def resolved_precision(self) -> str:
        """The precision, or the target's default."""
        return self.precision or next(iter(self.backend.precisions))

    def to_json(self) -> dict[str, object]:
        """The options that do not belong to this machine, in JSON's types."""
        named = {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata.get("here")}
        return {**named, "target": self.resolved_target.name,
                "shapes": {name: list(shape) for name, shape in (self.shapes or {}).items()},
                "dims": dict(self.dims or {})}


def _check_names(given: Mapping[str, object]) -> None:
    """Refuse options that there are not, with the nearest that there is."""
    known = [each.name for each in fields(CompileOptions)]
    for name in given:
        if name not in known:
            raise UsageError(f"there is no option {name}; {meant(name, known)}there are {', '.join(known)}")


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "target": (str, Target), "threads": (int,), "shapes": (Mapping, _NONE), "dims": (Mapping, _NONE),
    "inputs": (Mapping, _NONE),
    "tune_seconds": (int, float), "max_error": (int, float, _NONE), "measure_on": (str, _NONE),
    "dump_ir": (str, Path, _NONE), "precision": (str, _NONE), "optimize": (str,), "codec": (str,), "tune": (str,),
    "dependent_launch": (str,),
    "verify": (bool,), "strict": (bool,), "strict_ieee": (bool,), "project_2of4": (bool,)}
"""What types the values of options may have."""


def _is_size(size: object) -> bool:
    return isinstance(size, Integral | str) and not isinstance(size, bool)


def not_carried(values: Mapping[str, Any]) -> list[str]:
    """Those of the options that `to_json` cannot have written: of other names, or of other types than theirs."""
    types = {each.name: tuple(kind for name in str(each.type).split(" | ") for kind in _JSON[name])
             for each in fields(CompileOptions) if not each.metadata.get("here")}
    return [name for name, value in values.items()
            if name not in types or not isinstance(value, types[name])
            or (name == "shapes" and not _are_shapes(value))
            or (name == "dims" and not _are_dims(value))]


def _are_dims(dims: Any) -> bool:
    return all(isinstance(size, int | str) for size in dims.values())


def _are_shapes(shapes: Any) -> bool:
    return all(isinstance(shape, list) and all(isinstance(size, int | str) for size in shape)
               for shape in shapes.values())


_JSON: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (float, int), "str": (str,),
                                      "None": (type(None),), "Shapes": (dict,), "Dims": (dict,), "Target": ()}
"""What JSON makes of the types of options."""


def takes(options: Callable[P, Options]) -> Callable[[Callable[[Model, Options], Result]],
                                                     Callable[Concatenate[Model, P], Result]]:
    """A decorator: the function takes the arguments that the options are made of in their place, typed as they are."""
    def decorate(function: Callable[[Model, Options], Result]) -> Callable[Concatenate[Model, P], Result]:
        @functools.wraps(function)
        def call(model: Model, *args: P.args, **kwargs: P.kwargs) -> Result:
            _check_names(kwargs)
            return function(model, options(*args, **kwargs))

        own, taken = inspect.signature(function), inspect.signature(options)
        first, *_ = own.parameters.values()
        call.__signature__ = own.replace(  # type: ignore[attr-defined]  # inspection and help read it
            parameters=[first, *taken.parameters.values()])
        call.__doc__ = f"{inspect.getdoc(function)}\n\n{inspect.getdoc(options)}"
        return cast("Callable[Concatenate[Model, P], Result]", call)  # its first argument has a name, too

    return decorate
