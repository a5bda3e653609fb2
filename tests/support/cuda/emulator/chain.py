"""Launches one after another as programmatic dependent launch allows them at its earliest.

A launch that may be early begins before the one in front of it has done anything, as if that had let it begin at
once. It goes on, all threads of a block, until they wait for it or end; only then does the one in front of it run, and
so on. Each launch is a process of its own, and arrays lie in memory that all of them share.
"""

import os
from dataclasses import dataclass

from tests.support.cuda.emulator.emulate import EmulationError, Guarded, Library, runtime


@dataclass(frozen=True)
class Launch:
    """A launch of a library's kernel; the same array among the arguments of several is the same memory."""

    library: Library
    kernel: str
    grid: tuple
    block: tuple
    dynamic_shared: int
    arguments: dict
    early: bool = True
    cluster: tuple = ()


def run(launches, seed=0):
    """Run them; arrays change in place.

    Raises:
        EmulationError: a kernel did what a GPU would not forgive.

    """
    arrays = {id(array): array for each in launches for array in each.arguments.values() if hasattr(array, "nbytes")}
    memory = {name: Guarded(array) for name, array in arrays.items()}
    left = set(range(len(launches)))

    def end(number):
        """Run a launch, and before its end those in front of it that it waits for."""
        left.remove(number)
        if not launches[number].early:
            end_all(number)
        with _Begun(launches[number], memory, seed) as begun:
            if begun.waits():
                if number - 1 in left:
                    end(number - 1)
                begun.go_on()

    def end_all(before):
        while earlier := [number for number in left if number < before]:
            end(max(earlier))

    end_all(len(launches))
    for each in memory.values():
        each.copy_back()


class _Begun:
    """A launch in a process of its own."""

    def __init__(self, launch, memory, seed):
        hears, self._go = os.pipe()
        self._told, tells = os.pipe()
        self._process = os.fork()
        if not self._process:
            os._exit(_work(launch, memory, seed, tells, hears))
        os.close(tells), os.close(hears)

    def waits(self):
        """Whether it waits for those in front of it; else it has ended."""
        return os.read(self._told, 1) == b"w"

    def go_on(self):
        """Those in front of it have ended."""
        os.write(self._go, b"g")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self._go)
        message = b"".join(iter(lambda: os.read(self._told, 1 << 16), b""))
        os.close(self._told)
        os.waitpid(self._process, 0)
        if message and not error[0]:
            raise EmulationError(message.decode())


def _work(launch, memory, seed, tells, hears):
    """What the process of a launch does: it writes why it failed."""
    try:
        held = {name: memory[id(array)] for name, array in launch.arguments.items() if id(array) in memory}
        if launch.early:
            runtime().begin_early(tells, hears)
        launch.library.run(launch.kernel, launch.grid, launch.block, launch.dynamic_shared, launch.arguments, seed,
                           launch.cluster, held)
    except BaseException as failure:  # noqa: BLE001 - a forked process must not go on as its parent
        os.write(tells, (b"" if isinstance(failure, EmulationError) else b"? ") + str(failure).encode()[:4000])
        return 1
    return 0
