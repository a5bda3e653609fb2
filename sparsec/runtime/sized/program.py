"""A program for sizes that only the run tells: compiled stages of rows, and operators on numpy and kernels between."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.errors import ArtifactError, InputError
from sparsec.machine.memory import Memory, element_type
from sparsec.runtime.loading import load_code
from sparsec.runtime.sized.attention import Attention
from sparsec.runtime.sized.device import DeviceRunner
from sparsec.runtime.sized.device_caches import caches_of
from sparsec.runtime.sized.device_kernels import DeviceKernels, Plan
from sparsec.runtime.sized.device_recorder import Recorder
from sparsec.runtime.sized.flow import Flow
from sparsec.runtime.sized.growing import append
from sparsec.runtime.sized.items import in_a_row
from sparsec.runtime.sized.kernels import Kernels
from sparsec.runtime.sized.operators import CHAIN, GROWS, OPERATORS
from sparsec.runtime.sized.recurrent import Recurrent
from sparsec.runtime.sized.rotary import Rotary
from sparsec.runtime.sized.rows import RowStage, Splitter, Tensor
from sparsec.runtime.sized.runner import Run, Runner
from sparsec.runtime.sized.sizes import Input, sizes_of, value_of
from sparsec.runtime.sized.suppression import Suppression
from sparsec.runtime.sized.token import Caller, Machine, Replayed, Token, steps_before
from sparsec.runtime.sized.windows import WEIGHTED, Windows, kernel_of
from sparsec.runtime.stages import interpret

MULTIPLIES = {"Conv", "ConvTranspose", "Gemm", "MatMul", "onnx"}
"""The operators that BLAS may run in threads of its own."""
FLOAT_BYTES = 4
Feeds = Mapping[str, np.ndarray]


class SizedProgram:
    """What all calls of a session share: the plan, the libraries and the constants.

    Args:
        artifact: of the entry `SIZED`.
        memory: where its tensors lie.

    Raises:
        ArtifactError: the plan contradicts itself.

    """

    def __init__(self, artifact: Artifact, memory: Memory) -> None:
        plan, *arrays = artifact.constants()
        try:
            self._plan: dict[str, Any] = json.loads(plan.tobytes())
            self.inputs = [Input(each["name"], each["value"], element_type(each["dtype"]), tuple(each["shape"]))
                           for each in self._plan["inputs"]]
            self.outputs: list[dict[str, Any]] = self._plan["outputs"]
            self._steps: list[dict[str, Any]] = self._plan["steps"]
            self._constants: dict[str | None, np.ndarray] = {
                name: arrays[number] for name, number in self._plan["constants"].items()}
            self._sizes = [(name, each["dtype"], each["rank"], each["terms"])
                           for name, each in self._plan["sizes"].items()]
            self._quotients = [(name, terms, by) for name, terms, by in self._plan.get("quotients", ())]
            self._limits: dict[str, Sequence[int]] = self._plan["limits"]
            self._memory = memory
            self._weights = {name: memory.place(self._constants[name]) for name in {
                step["inputs"][1] for step in self._steps if step.get("kind") in WEIGHTED}}
            if memory.lane is None:
                self._constants |= {name: np.from_dlpack(each) for name, each in self._weights.items()}
            self._libraries = [(each["count"], load_code(arrays[each["library"]].tobytes(), each["objects"]),
                                each["functions"]) for each in self._plan["rows"]]
            self._recurrences = {
                each["count"]: (load_code(arrays[own["library"]].tobytes(), own["objects"]), own["functions"])
                for each in self._plan["rows"] if (own := each.get("recurrences")) is not None}
            kernels = self._plan["kernels"]
            between = (kernels or {}).get("functions", ())
            self._tensors = {number: memory.place(arrays[number])
                             for functions in (*(each[-1] for each in self._libraries), between,
                                               *(each[-1] for each in self._recurrences.values()))
                             for function in functions
                             for number in (*function["constants"], *_embedded(function))}
            self._nbytes = {number: arrays[number].nbytes for number in self._tensors}
            self._splitter = Splitter({each["count"]: each["seconds"] for each in self._plan["rows"]} or {1: 1.0})
            self._kernels: Any = kernels and load_code(arrays[kernels["library"]].tobytes(), kernels["objects"])
            self._models = {step["model"]: interpret(arrays[step["model"]].tobytes())
                            for step in self._steps if step["op"] == "onnx"}
            self._spent = _last_uses(self._plan)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ArtifactError(f"the artifact's plan contradicts itself ({error}); compile the model again") from error

    @property
    def constants(self) -> Collection[np.ndarray]:
        """The constants of the operators on numpy."""
        return self._constants.values()

    @property
    def steps(self) -> Sequence[Mapping[str, Any]]:
        """What a call does, as the plan says it."""
        return self._steps

    @property
    def multiplies(self) -> bool:
        """Whether numpy multiplies matrices in a call."""
        return any(step["op"] in MULTIPLIES for step in self._steps)

    @property
    def caches(self) -> list[str]:
        """The names of the inputs that are appended to."""
        grown = {step["inputs"][0] for step in self.steps if step["op"] in GROWS}
        return [spec.name for spec in self.inputs if spec.value in grown]

    def weight_bytes(self, step: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
        """Bytes of the constants that the calls of a stage of rows read; of one row where values choose how many."""
        told = all(name in sizes for terms in step["lead"] for _, *names in terms for name in names)
        rows = math.prod(value_of(terms, sizes) for terms in step["lead"]) if told else 1
        functions = {each["count"]: each["functions"][step["number"]] for each in self._plan["rows"]}
        return sum(self._nbytes[number] for count in self._splitter.parts(rows)
                   for number in functions[count]["constants"])

    def bind(self, feeds: Feeds) -> tuple[list[np.ndarray], dict[str, int]]:
        """The inputs in order, and the sizes of the symbols.

        Raises:
            InputError: an input is missing or does not fit.

        """
        arrays = []
        for spec in self.inputs:
            if spec.name not in feeds:
                raise InputError(f"the model takes the inputs {', '.join(repr(each.name) for each in self.inputs)}; "
                                 f"given: {', '.join(map(repr, feeds)) or 'none'}")
            array = np.asarray(feeds[spec.name])
            arrays.append(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))
        if len(feeds) != len(self.inputs):
            unknown = [name for name in feeds if name not in {spec.name for spec in self.inputs}]
            raise InputError(f"the model has no input '{unknown[0]}'")
        return arrays, self.sizes(self.inputs, arrays)

    def sizes(self, inputs: Sequence[Input], arrays: Sequence[np.ndarray]) -> dict[str, int]:
        """The sizes of the symbols, read from some inputs.

        Raises:
            InputError: an array does not fit its input.

        """
        return self.advanced(sizes_of(inputs, arrays, self._limits), ())

    def advanced(self, sizes: Mapping[str, int], symbols: Sequence[str]) -> dict[str, int]:
        """Sizes where some symbols are one more, with the quotients that follow."""
        found = {**sizes, **{name: sizes[name] + 1 for name in symbols}}
        for name, terms, by in self._quotients:
            found[name] = value_of(terms, found) // by
        return found

    def runner(self) -> Runner | DeviceRunner:
        """A virtual machine for one call at a time."""
        try:
            return self._runner()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"the artifact's plan contradicts itself ({error}); compile the model again") from error

    def _runner(self) -> Runner | DeviceRunner:
        if self._memory.lane is not None:
            return DeviceRunner(self, self._on_device(), self._memory)
        machines = {count: _functions(library, functions, self._tensors, self._memory)
                    for count, library, functions in self._libraries}
        kernels = self._runnable()
        steps = []
        for step, spent in zip(self._steps, self._spent, strict=True):
            when = tuple((name, chosen) for name, chosen in step["when"])
            steps.append((self._step(step, machines, kernels), step["inputs"], step["outputs"], spent, when))
        about = self._plan.get("token")
        if about is None:
            flow = None if kernels is None else self._flow(kernels, [run for run, *_ in steps])
            return Runner(self, steps, flow=flow)
        token = Token(partial(self._caller, machines[1][-1], kernels), about, self._plan["kernels"]["attention"][0])
        return Runner(self, steps, token, steps_before(about, steps))

    def _caller(self, function: Callable[..., Any], kernels: Kernels | None, inputs: int) -> Caller:
        """What calls the function for one token, which is the last for one row."""
        one = next(functions for count, _, functions in self._libraries if count == 1)
        if kernels is None or one[-1]["calls"] is None:
            return Machine(function, inputs)
        return Replayed(kernels, len(one) - 1, inputs, len(self._plan["token"]["outputs"]))

    def _on_device(self) -> Plan:
        """The plan for a device of its own."""
        told = self._plan["kernels"] or {}
        kernels = DeviceKernels({count: (library, functions) for count, library, functions in self._libraries},
                                self._tensors, self._kernels, told.get("attention", ()), told.get("half", ""),
                                {name: (each, self._constants[name].size) for name, each in self._weights.items()},
                                [[(self._tensors[number], self._nbytes[number] // FLOAT_BYTES)
                                  for number in function["constants"]] for function in told.get("functions", ())])
        runs = [None if step["op"] in Recorder.natively else self._step(step, {}, None) for step in self._steps]
        conditions = {name for step in self._steps for name, _ in step["when"]}
        return Plan(kernels, self._steps, runs, self._spent, [each["value"] for each in self.outputs], self._splitter,
                    caches_of(self._plan), self._plan.get("halves", {}),
                    [place for place, spec in enumerate(self.inputs) if spec.value in conditions],
                    frozenset(self._constants))

    def _runnable(self) -> Kernels | None:
        """The kernels as blocks, None where an artifact does not tell of them."""
        stages = {count: (library, functions) for count, library, functions in self._libraries}
        told = all("calls" in function for _, functions in stages.values() for function in functions)
        if not told or self._kernels is None:
            return None
        return Kernels(stages, self._recurrences, self._tensors, self._kernels)

    def _flow(self, kernels: Kernels, runs: Sequence[Run]) -> Flow | None:
        """What repeats calls, None where they append to caches or choose branches."""
        if any(step["op"] in GROWS or step["when"] for step in self._steps):
            return None
        return Flow(kernels, self._steps, runs, self._spent, [each["value"] for each in self.outputs], self._splitter,
                    self._plan["kernels"]["attention"])

    def _step(self, step: Mapping[str, Any], machines: Mapping[int, Sequence[Callable[..., Any]]],
              kernels: Kernels | None) -> Run:
        """What runs a step."""
        kind = step["op"]
        if kind == "rows":
            given, made = ([Tensor.of(each) for each in step[key]] for key in ("given", "made"))
            functions = {count: calls[step["number"]] for count, calls in machines.items()}
            return RowStage(step["rank"], given, made, functions, self._splitter).run
        if kind in ("attention", "rotary", "recurrence", "windows", "suppression"):
            return self._kernel(step, kernels)
        if kind == "append":
            axis = step["attributes"]["axis"]
            return lambda arrays: (append(arrays, axis),)
        if kind == "onnx":
            model, names = self._models[step["model"]], step["inputs"]
            return lambda arrays: model(dict(zip(names, arrays, strict=True)))
        if kind == CHAIN:
            return in_a_row(step["inputs"], [(self._step(node, machines, kernels), node["inputs"], node["outputs"])
                                             for node in step["nodes"]])
        operator, attributes = OPERATORS[kind], {
            name: np.array(value["values"], value["dtype"]) if isinstance(value, dict) else value
            for name, value in step["attributes"].items()}
        return lambda arrays: operator(arrays, attributes)

    def _kernel(self, step: Mapping[str, Any], kernels: Kernels | None) -> Run:
        """What calls a kernel of run-time sizes, with scratch of its own."""
        if step["op"] == "recurrence":
            if kernels is None:
                raise KeyError("calls")
            return Recurrent(kernels, step["number"], step["hidden"]).run
        if step["op"] == "suppression":
            return Suppression(self._kernels["suppression"], centred=step["centred"]).run
        if step["op"] == "windows":
            return Windows(self._kernels[kernel_of(step)], step["kind"], step["attributes"]).run
        number = step["kernel"]
        if step["op"] == "rotary":
            return Rotary(self._kernels[f"rotary{number}"]).run
        about = self._plan["kernels"]["attention"][number]
        return Attention(self._kernels[f"attention{number}"], about["depth"], about["width"], about["pair"],
                         about["rows"], about["threads"]).run

    def start(self, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], told: Collection[str] | None = None,
              ) -> dict[str | None, Any]:
        """The values that are known before the first step; None stands for an input that is absent.

        Of those that follow from sizes they are all, or the ones that are `told`.
        """
        values = self.known(sizes, told)
        values.update((spec.value, array) for spec, array in zip(self.inputs, arrays, strict=True))
        return values

    def known(self, sizes: Mapping[str, int], told: Collection[str] | None = None) -> dict[str | None, Any]:
        """The constants, and the values that follow from sizes: all, or the ones `told`."""
        values: dict[str | None, Any] = {None: None, "": None, **self._constants}
        for name, dtype, rank, terms in self._sizes:
            if told is not None and name not in told:
                continue
            numbers = [value_of(each, sizes) for each in terms]
            values[name] = np.array(numbers if rank else numbers[0], dtype)
        return values


def _embedded(function: Mapping[str, Any]) -> Sequence[int]:
    """The constants that are compiled into a function, as its kernels take them."""
    return tuple((function.get("calls") or {}).get("embedded", ()))


def _last_uses(plan: Mapping[str, Any]) -> list[list[str]]:
    """By step, what none behind it needs."""
    kept = {each["value"] for each in plan["outputs"]}
    spent: list[list[str]] = []
    for step in reversed(plan["steps"]):
        conditions = [name for name, _ in step["when"]]
        names = {name for name in (*step["inputs"], *step["outputs"], *conditions) if name} - kept
        spent.append(sorted(names))
        kept |= names
    return spent[::-1]


def _functions(library: Any, functions: Sequence[Mapping[str, Any]], tensors: Mapping[int, Any],
               memory: Memory) -> list[Callable[..., Any]]:
    """The functions of a virtual machine of its own with their constants bound."""
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](*memory.devices)
    bound = []
    for function in functions:
        name = f"bound_{function['entry']}"
        machine["save_function"](function["entry"], name, 1, *[tensors[number] for number in function["constants"]])
        bound.append(machine[name])
    return bound
