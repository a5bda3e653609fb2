"""Programmatic dependent launch, from sm_90 on: a kernel is launched before the one in front of it has ended.

Every kernel of a program is made to wait at its head, before it reads or writes memory, until all kernels in front of
it have ended and what they wrote is seen (`griddepcontrol.wait`), and then lets the next one be launched
(`griddepcontrol.launch_dependents`). What overlaps is what lies before the wait: the launch, and requests that bring
the begin of each block's share of the weight into the L2 cache, which change nothing that a kernel sees. A kernel ends
after the one in front of it, for which it has waited; so none needs to know of others than that one, and memory that is
used again needs no more care than without.

The compiler takes `__restrict__` pointers for memory that no other code changes, and may read it before the wait; the
wait therefore hands out the pointers. PTX ISA, "griddepcontrol"; CUDA C++ Programming Guide, "Programmatic Dependent
Launch".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from sparsec.errors import ToolchainError

TAG = b"tirx.use_programtic_dependent_launch"
"""The launch parameter by which TVM 0.27 asks for programmatic stream serialization, spelt as it is there."""
LEAST = 90
"""The oldest architecture that has it."""
AHEAD_BYTES = 32 << 10
"""What a block asks for of each array at most, 128 bytes at once."""

Ahead = Mapping[str, Mapping[str, int]]
"""By kernel the bytes of the arrays, by name, that blocks ask for: each for the begin of an equal share."""

_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([\d, ]+\) )?(\w+)\(([^)]*)\) \{\n')
_ASKS = f"""
static __device__ __forceinline__ void sparsec_ask(const char* at) {{
  asm volatile("prefetch.global.L2 [%0];" : : "l"(at));
}}
static __device__ __forceinline__ void sparsec_ask_ahead(const void* begin, unsigned long long size) {{
  unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  unsigned long long share = size / (gridDim.x * gridDim.y * gridDim.z);
  unsigned asked = share < {AHEAD_BYTES} ? (unsigned)share : {AHEAD_BYTES};
  for (unsigned at = 128 * thread; at < asked; at += 128 * blockDim.x * blockDim.y * blockDim.z)
    sparsec_ask((const char*)begin + block * share + at);
}}
"""


def reject(archs: Collection[str]) -> str | None:
    """Why code for these architectures cannot be launched so, or None."""
    older = sorted(arch for arch in archs if int(arch.removeprefix("sm_").removesuffix("a")) < LEAST)
    return f"{' and '.join(older)} cannot launch a kernel before the one in front of it has ended" if older else None


def waiting(source: str, names: Collection[str], ahead: Ahead) -> str:
    """CUDA source whose kernels, which have these names, wait at their heads.

    Args:
        source: what TVM's code generator writes.
        names: of all kernels.
        ahead: what is asked for before they wait; arrays that a kernel does not take are left out.

    Raises:
        ToolchainError: the source holds other kernels, or is written otherwise than TVM 0.27 does.

    """
    found: list[str] = []

    def head(kernel: re.Match[str]) -> str:
        found.append(kernel[1])
        return kernel[0] + _head(kernel[2], ahead.get(kernel[1], {}))

    result = _KERNEL.sub(head, source)
    if sorted(found) != sorted(names):
        raise ToolchainError("TVM wrote CUDA code of another form, in which kernels cannot be made to wait; install "
                             "the release of apache-tvm that sparsec names, or compile with dependent_launch='off'")
    begin = result.index('extern "C" __global__')
    return f"{result[:begin]}{_ASKS}{result[begin:]}"


def _head(parameters: str, asked: Mapping[str, int]) -> str:
    """What begins a kernel with these parameters."""
    pointers = [each.split()[-1].lstrip("*") for each in parameters.split(",") if "*" in each]
    asks = [f"  sparsec_ask_ahead({name}, {asked[name.removesuffix('_ptr')]}ull);\n" for name in pointers
            if name.removesuffix("_ptr") in asked]
    handed = ", ".join(f'"+l"({name})' for name in pointers)
    return "".join(asks) + (f'  asm volatile("griddepcontrol.wait;" : {handed} : : "memory");\n'
                            '  asm volatile("griddepcontrol.launch_dependents;" : : : "memory");\n')
