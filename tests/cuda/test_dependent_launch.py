"""Kernels that are launched before those in front of them have ended: at the earliest overlap that CUDA allows they
compute what they do one after the other, and without their waits they do not.
"""

import re

import numpy as np
import pytest

from sparsec.backends.cuda import dependent
from sparsec.errors import ToolchainError
from sparsec.kernels.cuda import gaps, mma_dense, mma_sp, wgmma_bulk
from sparsec.kernels.cuda.params import MmaParams, Tile
from tests.support.cuda.emulator import chain, launches
from tests.support.cuda.emulator.emulate import EmulationError
from tests.support.cuda.products import SMALL, fitted, needs_compiler, packed, weight_index

FAMILIES = {
    "2:4": (mma_sp.FAMILY, MmaParams(96, 24, 96, SMALL)),
    "dense": (mma_dense.FAMILY, MmaParams(96, 24, 96, SMALL)),
    "shares of K": (mma_sp.FAMILY, MmaParams(96, 24, 96, SMALL, split_k=2)),
    "a cluster": (mma_sp.FAMILY, MmaParams(96, 24, 96, SMALL, split_k=2, cluster=True)),
    "gaps": (gaps.FAMILY, MmaParams(96, 4, 96, Tile(32, 4, 256, (16, 1), 2))),
    "bulk": (wgmma_bulk.SPARSE, MmaParams(128, 256, 128, wgmma_bulk.SPARSE.tiles[0])),
}
WAIT = re.compile(r'  asm volatile\("griddepcontrol\.wait;".*\n')


class Layers:
    """Square layers of a kind that read and write named buffers, (columns * features), of small integers."""

    def __init__(self, kind="2:4"):
        family, p = FAMILIES[kind]
        self.family, self.p, self.rng = family, fitted(family, p), np.random.default_rng(0)
        self.memory, self.expected, self.launches = {}, {}, []

    def holds(self, name):
        """The buffer by a name; one that nobody has written holds random integers."""
        if name not in self.memory:
            self.memory[name] = self.rng.integers(-2, 3, self.p.outputs).astype(np.float16)
            self.expected[name] = self.memory[name].copy()
        return self.memory[name]

    def layer(self, x, y, mutate=lambda source: source, *, early=True):
        """Add a layer from a buffer to another; `mutate` changes its source."""
        p, family = self.p, self.family
        weight = weight_index(self.rng, p, "few" if family is gaps.FAMILY else "2:4")
        weight = (weight * (self.rng.random(weight.shape) < 0.05)).astype(np.float16)
        params, arrays = packed(family, p, weight)
        program = launches.lower(family.build(params, ()), "tirx")
        given = {**arrays, "bias": np.ones(p.m, np.float32), "x": self.holds(x), "y": self.holds(y)}
        if p.leaves_partial:
            given["partial"] = np.full(p.split_k * p.outputs, np.nan, np.float32)
        names = [each.kernel for each in program.launches]
        asked = {names[0]: {name: array.nbytes for name, array in arrays.items()}}
        library = launches.compiled(mutate(dependent.waiting(program.source, names, asked)))
        given = program.bound | given | program.maps
        for each in (each.told(given) for each in program.launches):
            self.launches.append(chain.Launch(library, each.kernel, each.grid, each.block, each.dynamic_shared, given,
                                              early, each.cluster))
        product = self.expected[x].reshape(p.n, p.k).astype(np.float64) @ weight.astype(np.float64).T
        self.expected[y] = (product + 1).astype(np.float16).ravel()

    def are_right(self, seed=0):
        """Run all layers; whether every buffer holds what it should."""
        chain.run(self.launches, seed)
        return all((self.memory[name] == self.expected[name]).all() for name in self.memory)


def without_wait(source):
    """The source whose kernels do not wait."""
    changed = WAIT.sub("", source)
    assert changed != source
    return changed


def waits_in_first_warp(source):
    """The source in which other warps go on."""
    return WAIT.sub(lambda wait: f"if (threadIdx.x < 32) {{ {wait[0]} }}", source)


@needs_compiler
@pytest.mark.parametrize("kind", FAMILIES)
def test_layers_in_a_row_are_right_at_the_earliest_overlap(kind):
    for seed in range(2):
        layers = Layers(kind)
        for x, y in ("ab", "ba", "ab"):
            layers.layer(x, y)
        assert layers.are_right(seed)


ROWS = {
    "it reads what the one in front of it has not written": ["ab", "bc"],
    "it overwrites what the one in front of it has not read": ["ab", "ca"],
    "the next one reads what two in front of it has not written": ["ab", "cd", "be"],
    "the next one overwrites what two in front of it has not read": ["ab", "cd", "ea"],
}
"""Layers from a buffer to another, of which the second does not wait."""


def are_right(rows, mutate=lambda source: source):
    """Whether layers are right of which the second is changed."""
    layers = Layers()
    for number, (x, y) in enumerate(rows):
        layers.layer(x, y, mutate if number == 1 else lambda source: source)
    return layers.are_right()


@needs_compiler
@pytest.mark.parametrize("what", ROWS)
def test_one_layer_that_does_not_wait_makes_numbers_wrong(what):
    assert are_right(ROWS[what])
    assert not are_right(ROWS[what], without_wait)


@needs_compiler
def test_so_does_one_of_which_some_threads_do_not_wait():
    assert not are_right(["ab", "bc"], waits_in_first_warp)


@needs_compiler
def test_a_launch_that_does_not_ask_for_it_needs_no_wait():
    layers = Layers()
    for x, y in ("ab", "bc"):
        layers.layer(x, y, without_wait, early=False)
    assert layers.are_right()


@needs_compiler
def test_what_is_asked_for_lies_in_the_array():
    layers = Layers()
    layers.layer("a", "b", lambda source: re.sub(r"(sparsec_ask_ahead\(\w+, )(\d+)", r"\g<1>4\2", source))
    with pytest.raises(EmulationError, match="an access to memory that no argument holds"):
        layers.are_right()


def test_a_source_of_another_form_is_refused():
    source = 'extern "C" __global__ void __launch_bounds__(64) main_kernel(float* __restrict__ x_ptr, int n) {\n}\n'
    assert '"+l"(x_ptr) : : "memory"' in dependent.waiting(source, ["main_kernel"], {})
    for other in (source.replace('extern "C"', ""), source + source.replace("main", "second")):
        with pytest.raises(ToolchainError, match="dependent_launch='off'"):
            dependent.waiting(other, ["main_kernel"], {})


@pytest.mark.parametrize(("archs", "older"), [
    (("sm_90",), None), (("sm_80", "sm_90"), "sm_80"), (("sm_86", "sm_89"), "sm_86 and sm_89")])
def test_it_begins_with_hopper(archs, older):
    reason = dependent.reject(archs)
    assert reason is None if older is None else reason.startswith(older)
