"""The memory of the GPU at hand, where sessions keep constants and record programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sparsec.backends.cuda import cudart, driver
from sparsec.backends.cuda.graphs import Graph
from sparsec.backends.cuda.lanes import Lane
from sparsec.errors import DeviceError
from sparsec.machine.memory import CUDA, Memory, on_device


def open_memory(archs: Sequence[str], ptx: tuple[int, ...]) -> Memory:
    """The memory of the GPU at hand, with TVM's runtime for it loaded.

    Raises:
        ArtifactError: the GPU cannot run code for these architectures.
        ToolchainError: CUDA's runtime library is missing.

    """
    driver.check(driver.probe(), archs, ptx)
    driver.load_runtime()
    return on_device(CUDA, record=Graph, guard=guard, lane=Lane)


@contextmanager
def guard(nbytes: int) -> Iterator[None]:
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
        raise DeviceError(f"the GPU's memory does not hold the artifact: it needs {_text(nbytes)}, and {_text(free)} "
                          f"of {_text(total)} are free; close other sessions and programs that use the GPU, or compile "
                          "the model for smaller batches") from error


def _text(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
