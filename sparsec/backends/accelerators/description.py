"""What an accelerator is: the columns of the survey's table (Hoefler et al. 2021, table 1), and its four parts.

*Representation* is two schemes and what they encode (`representation`), *mapping* what each unit does (`mapping`),
*timing* how the units wait for each other (`timing`), *energy* the accesses of buffers times published energies
(`energy`). `composed.Composed` puts them together; a subclass of `Accelerator` replaces what it must.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.activity import Activity
from sparsec.backends.accelerators.energy import Buffer, by_access
from sparsec.backends.accelerators.layer import Layer, Operator
from sparsec.backends.accelerators.representation import Scheme
from sparsec.backends.accelerators.timing import Configuration
from sparsec.errors import UsageError


@dataclass(frozen=True)
class Parameter:
    """A number of the configuration that an architect may vary.

    Attributes:
        default: the paper's value.
        text: what it is.
        least, most: its bounds.
        divides: the parameter that it must divide, "" for none.

    """

    default: int
    text: str
    least: int = 1
    most: int = 1 << 20
    divides: str = ""


def numbers(clock_mhz: int, weight_bits: int = 16, activation_bits: int = 16) -> dict[str, Parameter]:
    """The parameters of a clock and of the widths of both operands."""
    return {"clock_mhz": Parameter(clock_mhz, "clock"), "weight_bits": Parameter(weight_bits, "of a weight", 2, 16),
            "activation_bits": Parameter(activation_bits, "of an activation", 2, 16)}


@dataclass(frozen=True)
class Footprint:
    """Bits of a layer's weights and of its activations as stored."""

    weights: int
    activations: int


@dataclass(frozen=True)
class Execution:
    """A layer computed step by step: (outputs, positions) results, what they should be, and what happened."""

    outputs: NDArray[np.int64]
    reference: NDArray[np.int64]
    activity: Activity


@dataclass(frozen=True, kw_only=True)
class Accelerator(ABC):
    """One accelerator.

    Attributes:
        name: of its target.
        title: as the survey writes it.
        paper: authors, title, venue.
        operators: the layers that its paper runs.
        extended: further ones that it runs here, as an assumption says.
        trains: whether it is made for training; its forward pass is what is simulated.
        surveyed: whether it is a row of the table.
        compiles: whether it is a target of `compile`, too: its memories hold the weights themselves.
        weights, activations: how they are stored.
        skips_weights, skips_activations: whether products with zeros of one kind are left out.
        gates: whether products with zeros take their cycle, but no energy.
        balance, reuse: the survey's words for how work is balanced, and what stays where it is.
        parameters: the configuration; `units`, `multipliers` of a unit, `clock_mhz`, `weight_bits` and
            `activation_bits` always, `queue` where timing reads it.
        buffers: what accesses are counted of.
        area_mm2, power_mw, technology: published ones; None where there are none.
        assumptions: what the paper leaves open, or the model leaves out.
        sources: where the numbers come from.
        checked: whether they were compared with the paper's text, or are as widely cited.
        differs: by the table's column, where the survey's cell is not what the paper says.

    """

    name: str
    title: str
    paper: str
    operators: frozenset[Operator]
    extended: frozenset[Operator] = frozenset()
    trains: bool = False
    surveyed: bool = True
    compiles: bool = True
    weights: Scheme
    activations: Scheme
    skips_weights: bool
    skips_activations: bool
    gates: bool = False
    balance: str
    reuse: str
    parameters: Mapping[str, Parameter]
    buffers: Mapping[str, Buffer]
    area_mm2: float | None = None
    power_mw: float | None = None
    technology: str = ""
    assumptions: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    checked: bool = False
    differs: Mapping[str, str] = field(default_factory=dict)

    def configure(self, given: Mapping[str, int]) -> dict[str, int]:
        """The paper's configuration with some numbers changed.

        Raises:
            UsageError: no such parameter, or an impossible value.

        """
        for name, value in given.items():
            if name not in self.parameters:
                raise UsageError(f"{self.name} has no parameter '{name}'; it has {', '.join(self.parameters)}")
            least, most = self.parameters[name].least, self.parameters[name].most
            if not least <= value <= most:
                raise UsageError(f"{self.name}: {name} is {value}; {least} to {most} is possible")
        config = {name: parameter.default for name, parameter in self.parameters.items()} | dict(given)
        for name, parameter in self.parameters.items():
            if parameter.divides and config[parameter.divides] % config[name]:
                raise UsageError(f"{self.name}: {name} is {config[name]}, which must divide {parameter.divides}, "
                                 f"{config[parameter.divides]}; change either")
        return config

    def runs(self, operator: Operator) -> bool:
        """Whether it runs layers of a kind."""
        return operator in self.operators | self.extended

    def lanes(self, config: Configuration) -> int:
        """Multipliers."""
        return config["units"] * config["multipliers"]

    @abstractmethod
    def footprint(self, layer: Layer, config: Configuration) -> Footprint:
        """What the layer takes in its memories."""

    @abstractmethod
    def measure(self, layer: Layer, config: Configuration) -> Activity:
        """What happens."""

    @abstractmethod
    def execute(self, layer: Layer, config: Configuration) -> Execution:
        """Compute a layer of one group step by step, from its stored operands."""

    def energy(self, activity: Activity, footprint: Footprint, config: Configuration) -> dict[str, float]:
        """Energy in pJ by part."""
        return by_access(activity, self.buffers, (config["weight_bits"], config["activation_bits"]),
                         footprint.weights + footprint.activations, gated=self.gates)
