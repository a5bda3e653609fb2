"""The GPU at hand: whether it can run an artifact's code, and TVM's runtime for it. The compiler is not needed."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsec.errors import ArtifactError, ToolchainError
from sparsec.machine import tvm_runtime
from sparsec.target import CUDA_ARCHS

CUDART = "libcudart.so.13"
"""What TVM's runtime is linked with; it needs a driver of at least its own version."""
NEEDED = (13, 0)
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…


@dataclass(frozen=True)
class Gpu:
    """What a driver says.

    Attributes:
        cuda: the version of CUDA that the driver supports.
        capability: compute capability of the first GPU, None where there is no GPU.

    """

    cuda: tuple[int, int]
    capability: tuple[int, int] | None


def probe() -> Gpu | None:
    """The driver and GPU at hand, None where no driver is installed."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    found = cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    if found:
        for attribute, value in ((_MAJOR, major), (_MINOR, minor)):
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return Gpu(divmod(version.value // 10, 100), (major.value, minor.value) if found else None)


def name() -> str:
    """What the driver calls the first GPU, such as "NVIDIA H200"; there is one."""
    written = ctypes.create_string_buffer(64)
    ctypes.CDLL("libcuda.so.1").cuDeviceGetName(written, len(written), 0)
    return written.value.decode(errors="replace")


def attribute(number: int) -> int:
    """An attribute of the first GPU, one of CUdevice_attribute; there is one."""
    value = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDeviceGetAttribute(ctypes.byref(value), number, 0)
    return value.value


def missing(gpu: Gpu | None) -> str | None:
    """Why nothing can run on a GPU here, or None."""
    if gpu is None:
        return "there is no NVIDIA driver (libcuda.so.1)"
    if gpu.capability is None:
        return "there is no GPU that its NVIDIA driver can use"
    if gpu.cuda < NEEDED:
        return (f"its NVIDIA driver supports CUDA {_text(gpu.cuda)} and TVM's runtime needs {_text(NEEDED)}: "
                "install driver 580 or newer")
    return None


def is_exact(arch: str) -> bool:
    """Whether code for an architecture uses what no other has, so that it runs on no other, in any form."""
    return arch.endswith("a")


def check(gpu: Gpu | None, archs: Sequence[str], ptx: tuple[int, ...]) -> None:
    """Check that a GPU can run code for these architectures, or PTX of a version of CUDA.

    A cubin runs on GPUs of its major version and at least its minor version, one for an architecture with an "a" on
    GPUs of exactly this version; PTX, which the latter has none of, is compiled by the driver for any newer GPU, if the
    driver knows its version.

    Raises:
        ArtifactError: it cannot; says what to do.

    """
    if reason := missing(gpu):
        raise ArtifactError(f"the artifact was compiled for {', '.join(archs)} and here {reason}; run it where there "
                            "is a GPU, or compile the model with --target cpu")
    assert gpu is not None
    assert gpu.capability is not None  # nothing is missing
    if any(_runs(arch, gpu.capability) for arch in archs):
        return
    here = "".join(map(str, gpu.capability))
    again = "compile the model for several GPUs with --target cuda-sm80+sm90"
    if f"sm_{here}" in CUDA_ARCHS:
        again += f", or with --target cuda-sm{here}"
    alone = " alone" if any(map(is_exact, archs)) else ""
    if alone or gpu.capability < min(map(_version, archs)):
        raise ArtifactError(f"the artifact holds code for {', '.join(archs)}{alone} and this GPU is an sm_{here}; "
                            + (again if gpu.capability >= (8, 0) else "sparse tensor cores begin with sm_80"))
    if gpu.cuda < ptx:
        raise ArtifactError(f"the artifact holds no code for sm_{here}, and its PTX is of CUDA {_text(ptx)}, "
                            f"which a driver for CUDA {_text(gpu.cuda)} refuses; install a newer driver, or {again}")


def _version(arch: str) -> tuple[int, int]:
    """The compute capability that an architecture is named after."""
    return divmod(int(arch.removeprefix("sm_").removesuffix("a")), 10)


def runs(arch: str, gpu: Gpu) -> bool:
    """Whether a GPU, if there is one, runs an architecture's cubin."""
    return gpu.capability is not None and _runs(arch, gpu.capability)


def _runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU runs an architecture's cubin."""
    major, minor = _version(arch)
    return capability == (major, minor) if is_exact(arch) else major == capability[0] and minor <= capability[1]


@functools.cache
def load_runtime() -> ctypes.CDLL:
    """Load TVM's runtime for CUDA; returns CUDA's own.

    Raises:
        ToolchainError: a library is missing; says what to install.

    """
    tvm_runtime.load()
    for name in (CUDART, *(str(path / "lib" / CUDART) for path in packaged())):
        try:
            cudart = ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
            break
        except OSError:
            continue
    else:
        raise ToolchainError(f"CUDA's runtime {CUDART} is missing; pip install nvidia-cuda-runtime")
    ctypes.CDLL(str(tvm_runtime.folder() / "libtvm_runtime_cuda.so"), ctypes.RTLD_GLOBAL)
    return cudart


def packaged() -> list[Path]:
    """The folders of NVIDIA's PyPI packages for CUDA 13."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(each) / "cu13" for each in (spec.submodule_search_locations or ())] if spec is not None else []


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
