"""The memory of the GPU at hand, where sessions keep constants and record programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from sparsec.backends.cuda import cublaslt, cudart, driver
from sparsec.backends.cuda.graphs import Graph, forks, refuse_fork
from sparsec.backends.cuda.lanes import Lane
from sparsec.errors import DeviceError
from sparsec.machine.memory import CUDA, Memory, on_device
from sparsec.target import CUBLASLT

Made = TypeVar("Made")


def open_memory(archs: Sequence[str], ptx: tuple[int, ...], libraries: Sequence[str] = ()) -> Memory:
    """The memory of the GPU at hand, with TVM's runtime for it and the libraries that kernels call loaded.

    Raises:
        ArtifactError: the GPU cannot run code for these architectures.
        ToolchainError: CUDA's runtime library is missing, or one of the others.

    """
    driver.check(driver.probe(), archs, ptx)
    driver.load_runtime()
    if CUBLASLT in libraries:
        cublaslt.register()
    return on_device(CUDA, record=_here(Graph), guard=guard, lane=_here(Lane))


def _here(make: Callable[..., Made]) -> Callable[..., Made]:
    """What makes something in this process and no child of it."""
    born = forks()

    def made(*args: object) -> Made:
        refuse_fork(born)
        return make(*args)

    return made


@contextmanager
def guard(nbytes: int, *, of_call: bool = False) -> Iterator[None]:
    """Say what is needed where the GPU's memory does not hold it.

    Raises:
        DeviceError: what is done within asks for more memory than there is.

    """
    try:
        yield
    except Exception as error:
        if "out of memory" not in str(error):  # TVM's errors and CUDA's have no class of their own for it
            raise
        free, total = cudart.free_bytes()
        what, way = ("a call of such sizes", "run smaller batches, one call at a time") if of_call else (
            "the artifact", "compile the model for smaller batches")
        raise DeviceError(f"the GPU's memory does not hold {what}: it needs {_text(nbytes)}, and {_text(free)} of "
                          f"{_text(total)} are free; close other sessions and programs that use the GPU, or {way}"
                          ) from error


def _text(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
