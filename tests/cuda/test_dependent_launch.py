"""Kernels that are launched before those in front of them have ended: at the earliest overlap that CUDA allows they
compute what they do one after the other, and without their waits they do not.
"""

import re
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import sparsec
from sparsec.backends.cuda import dependent, driver
from sparsec.cli import tables
from sparsec.compiler.options import CompileOptions
from sparsec.errors import ToolchainError, UsageError
from sparsec.kernels.cuda import gaps, mma_dense, mma_sp, wgmma_bulk
from sparsec.kernels.cuda.params import MmaParams, Tile
from tests.support.cuda import host_gpu, networks
from tests.support.cuda.emulator import chain, launches
from tests.support.cuda.emulator.emulate import EmulationError
from tests.support.cuda.products import SMALL, fitted, needs_compiler, packed, weight_index
from tests.support.cuda.sass import CUOBJDUMP, NVCC, needs_cuobjdump, needs_nvcc

FAMILIES = {
    "2:4": (mma_sp.FAMILY, MmaParams(96, 24, 96, SMALL)),
    "dense": (mma_dense.FAMILY, MmaParams(96, 24, 96, SMALL)),
    "shares of K": (mma_sp.FAMILY, MmaParams(96, 24, 96, SMALL, split_k=2)),
    "a cluster": (mma_sp.FAMILY, MmaParams(96, 24, 96, SMALL, split_k=2, cluster=True)),
    "gaps": (gaps.FAMILY, MmaParams(96, 4, 96, Tile(32, 4, 256, (16, 1), 2))),
    "bulk": (wgmma_bulk.SPARSE, MmaParams(128, 256, 128, wgmma_bulk.SPARSE.tiles[0])),
}
needs_host_gpu = pytest.mark.skipif(
    NVCC is None or host_gpu.COMPILER is None or driver.probe() is not None,
    reason="the host's GPU needs nvcc and gcc, and no NVIDIA driver")
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

    def lowered(self):
        """A layer: its weight, packed arrays and program, and the source whose kernels wait and ask for the weight."""
        weight = weight_index(self.rng, self.p, "few" if self.family is gaps.FAMILY else "2:4")
        weight = (weight * (self.rng.random(weight.shape) < 0.05)).astype(np.float16)
        params, arrays = packed(self.family, self.p, weight)
        program = launches.lower(self.family.build(params, ()), "tirx")
        names = [each.kernel for each in program.launches]
        asked = {names[0]: {name: array.nbytes for name, array in arrays.items()}}
        return weight, arrays, program, dependent.waiting(program.source, names, asked)

    def layer(self, x, y, mutate=lambda source: source, *, early=True):
        """Add a layer from a buffer to another; `mutate` changes its source."""
        p, (weight, arrays, program, source) = self.p, self.lowered()
        given = {**arrays, "bias": np.ones(p.m, np.float32), "x": self.holds(x), "y": self.holds(y)}
        if p.leaves_partial:
            given["partial"] = np.full(p.split_k * p.outputs, np.nan, np.float32)
        library = launches.compiled(mutate(source))
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


CALLS = """
import json, sys
import numpy as np
from tests.support.cuda import host_gpu
from sparsec.runtime.session import InferenceSession
session = InferenceSession(sys.argv[1] + "/model.sparsec")
for _ in range(2):  # at sizes that the run tells, the second call is recorded
    session.run(None, {"x": np.zeros((4, 768), np.float32)})
print(json.dumps([row[:2] for row in host_gpu.log()]))
"""


def model(folder, rows=4):
    """The path of two layers and a softmax."""
    graph = networks.Graph()
    graph("Softmax", graph.linear(graph("Relu", graph.linear("x", 128, 768)), 64, 128), name="y")
    onnx.save(graph.model({"x": (TensorProto.FLOAT, [rows, 768])}, {"y": [rows, 64]}), folder / "model.onnx")
    return folder / "model.onnx"


@needs_host_gpu
@pytest.mark.parametrize("rows", [4, "rows"])
@pytest.mark.parametrize("launch", ["on", "off"])
def test_every_kernel_of_a_session_is_launched_early_or_none(tmp_path, launch, rows):
    artifact = sparsec.compile(model(tmp_path, rows), "cuda-sm90", dependent_launch=launch)
    artifact.save(tmp_path / "model.sparsec")
    assert len(tables.early(artifact.report)) == (launch == "on")
    host_gpu.build(tmp_path)
    log = host_gpu.told(tmp_path, CALLS, HOST_GPU_CAPABILITY="90")
    kernels = [each for each in log if each[0] in ("launch", "record") and each != ["record", "copy"]]
    early = [name for what, name in log if what == "early"]
    assert {"launch", "record"} == {what for what, _ in kernels}
    assert early == ([name for _, name in kernels] if launch == "on" else [])


MEASURED = """
import json, sys
import sparsec
from sparsec.backends.cuda.dependent import TAG
from sparsec.compiler import overlap
told, steps = [], []
for times in ([1e-5, 8e-6], [1e-5, 9.9e-6]):
    overlap.fastest = lambda runs, times=times: ([run() for run in runs], times)[1]
    artifact = sparsec.compile(sys.argv[1] + "/model.onnx", "cuda-sm90", verify=False,
                               progress=lambda step, done: steps.append([step, done]))
    told.append([artifact.report["overlap"], TAG in artifact.library])
off = sparsec.compile(sys.argv[1] + "/model.onnx", "cuda-sm90", verify=False, tune="off")
told.append(["overlap" in off.report, TAG in off.library])
print(json.dumps([*told, steps[:len(steps) // 2]]))
"""


@needs_host_gpu
def test_both_ways_are_timed_where_there_is_a_gpu_and_the_faster_is_kept(tmp_path):
    graph = networks.Graph()
    graph("Softmax", graph("Relu", "x"), name="y")
    onnx.save(graph.model({"x": (TensorProto.FLOAT, [4, 768])}, {"y": [4, 768]}), tmp_path / "model.onnx")
    host_gpu.build(tmp_path)
    gains, loses, untimed, steps = host_gpu.told(tmp_path, MEASURED, HOST_GPU_CAPABILITY="90")
    assert gains == [{"early": True, "off_us": 10.0, "on_us": 8.0, "shapes": None}, True]
    assert loses == [{"early": False, "off_us": 10.0, "on_us": 9.9, "shapes": None}, False]  # less than 2 %
    (told,) = tables.early({"overlap": gains[0]})
    assert told.endswith("ended: a call takes 8.0 us, and 10.0 us otherwise, measured")
    assert untimed == [False, False]
    shares = [done for _, done in steps]
    assert shares == sorted(shares)
    assert ["launched early" in step for step, _ in steps] == [done >= 0.5 for done in shares]


@pytest.mark.parametrize(("target", "asked", "reason"), [
    ("cpu", "on", "kernels of processors"), ("cuda-sm80+sm90", "on", "sm_80 cannot launch"),
    ("cuda-sm90", "always", "choose one of measure, on, off")])
def test_what_cannot_be_launched_so_is_refused(target, asked, reason):
    with pytest.raises(UsageError, match=reason):
        CompileOptions(target, dependent_launch=asked)
    CompileOptions("cuda-sm90", dependent_launch="on")


MEMORY = re.compile(r"LDG|STG|LD\.|ST\.|RED|ATOM|LDGSTS|UTMA|UBLK")
"""Instructions that read or write what other kernels see."""


def machine_code(source, folder, architecture="sm_90a"):
    """The instructions of a source's kernels, one list of each."""
    (folder / "kernels.cu").write_text(source)
    subprocess.run([NVCC, f"-arch={architecture}", "--cubin", "-O3", "-w", "-o", folder / "kernels.cubin",
                    folder / "kernels.cu"], check=True)
    dump = subprocess.run([CUOBJDUMP, "--dump-sass", folder / "kernels.cubin"], capture_output=True, text=True,
                          check=True).stdout
    return [re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?) ?;", kernel) for kernel in dump.split("Function : ")[1:]]


def is_behind_its_wait(code):
    """Whether all that a kernel does with memory comes behind its wait, and what lets the next one begin, too."""
    wait = next((at for at, each in enumerate(code) if "ACQBULK" in each), len(code))
    begin = next((at for at, each in enumerate(code) if "PREEXIT" in each), -1)
    return begin > wait and not any(MEMORY.search(each) for each in code[:wait])


@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("kind", FAMILIES)
def test_machine_code_touches_no_memory_before_its_wait(kind, tmp_path):
    _, _, program, source = Layers(kind).lowered()
    codes = machine_code(source, tmp_path)
    assert len(codes) == len(program.launches)
    assert all(map(is_behind_its_wait, codes))
    assert any("CCTL" in each for each in codes[-1] + codes[0])  # what asks for the weight


@needs_nvcc
@needs_cuobjdump
def test_a_read_before_the_wait_is_noticed_in_machine_code(tmp_path):
    source = """extern "C" __global__ void __launch_bounds__(64) main_kernel(float* __restrict__ x_ptr, float* y_ptr) {
  y_ptr[threadIdx.x] = x_ptr[threadIdx.x];
}
"""
    waits = dependent.waiting(source, ["main_kernel"], {})
    (wait,), (head, copies) = WAIT.findall(waits), source.splitlines(keepends=True)[:2]
    (code,) = machine_code(waits, tmp_path)
    assert is_behind_its_wait(code)
    (code,) = machine_code(f"{head}{copies}{wait}}}\n", tmp_path)
    assert not is_behind_its_wait(code)
