"""Programs for run-time sizes on GPUs, without one: kernels run in the emulator, on memory of the host.

    runner = compiled(model, "cuda-sm80")      # patches nothing for good
    outputs = runner(feeds)

What a lane of CUDA does with streams, graphs and copies is `test_host_gpu_sized.py`'s; here work is done in order, and
again for every replay.
"""

from contextlib import contextmanager
from functools import partial
from unittest import mock

import numpy as np

import sparsec
from sparsec.backends.cuda import between, build
from sparsec.machine.memory import Launch, Memory, Transfer, element_type
from sparsec.runtime.sized import program
from tests.support.cuda.emulator import launches


class Lane:
    """A lane whose device is the host."""

    def __init__(self):
        self.recorded, self.replayed, self.brought = 0, 0, 0

    def check(self):
        """It is always there."""

    def allocate(self, nbytes):
        return np.full(nbytes + 64, 0xFF, np.uint8)[:nbytes]

    def pinned(self, nbytes):
        return np.full(nbytes, 0xFF, np.uint8)

    def view(self, memory, offset, shape, dtype):
        dtype = element_type(dtype)
        flat = memory.reshape(-1).view(np.uint8)
        end = offset + int(np.prod(shape)) * dtype.itemsize
        assert 0 <= offset <= end <= flat.nbytes
        return flat[offset:end].view(dtype).reshape(shape)

    def do(self, work):
        _do(work)
        self.brought += sum(isinstance(each, Transfer) and each.back for each in work)

    def record(self, work):
        self.recorded += 1
        self.do(work)

        def again(more=()):
            self.replayed += 1
            self.do([*work, *more])

        return again


def _do(work):
    for each in work:
        if isinstance(each, Launch):
            each.function(*each.arguments)
        elif each.back:
            each.array.reshape(-1)[...] = each.tensor
        else:
            each.tensor[...] = each.array.reshape(-1)


class Library:
    """A module whose kernels are emulated."""

    def __init__(self, module):
        self.module, self.lowered = module, {}

    def get_function(self, name, query_imports):
        assert query_imports
        return partial(self.call, name)

    def call(self, name, *arguments):
        if name not in self.lowered:
            function = self.module[name]
            pipeline = "tirx" if "sparsec.hand_written" in function.attrs else "s_tir"
            self.lowered[name] = launches.lower(function, pipeline)
        self.lowered[name].run(arguments)


@contextmanager
def emulated():
    """While it lasts, what is compiled for GPUs needs no nvcc and is emulated."""
    modules = []

    def compile_(module, _target, _archs, **_overlap):
        modules.append(module)
        library = f"module {len(modules) - 1}".encode(), ()
        return lambda: library

    def load(library, _objects):
        return Library(modules[int(library.decode().split()[1])])

    with mock.patch.object(build, "compiled", compile_), mock.patch.object(build, "version", return_value=(13, 0)), \
            mock.patch.object(program, "load_code", load):
        yield


class Compiled:
    """A compiled model, called with inputs by name."""

    def __init__(self, model, target, **options):
        with emulated():
            self.artifact = sparsec.compile(model, target, tune="off", verify=False, **options)
            self.program = opened(self.artifact)
            self.runner = self.program.runner()

    def __call__(self, feeds, wanted=None):
        """The outputs; nothing but caches is there from earlier calls."""
        mirrors, self.runner._pinned[...] = self.runner._mirrors, 0xFF
        if self.runner._block is not None:
            self.runner._block[0 if mirrors is None else mirrors.nbytes:] = 0xFF
        return self.runner(feeds, range(len(self.program.outputs)) if wanted is None else wanted)


def opened(artifact):
    """The program of an artifact, while it is `emulated`."""
    memory = Memory((), np.array, lambda tensor, _reserved: np.array(tensor), lane=Lane)
    return program.SizedProgram(artifact, memory)


assert between  # imports `build_kernels`, which calls what is patched
