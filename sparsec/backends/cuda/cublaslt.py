"""cuBLASLt, called as it is, for kernels that name the library: a product with what follows it, in one call.

TVM finds the function by its name when it first runs a kernel that calls it. Handle, descriptors and the algorithm,
which the library's heuristic names for sizes and alignments, are made in that call, which is the one before a session
records; those that are recorded make nothing. They stay for as long as the process.

    D = activation(A^T B + bias + beta C)        column by column: A is (k, m), B (k, n), C and D (m, n)

Numbers are those of `cublasLt.h` of CUDA 13.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from dataclasses import dataclass

import tvm_ffi

from sparsec.backends.cuda import driver
from sparsec.errors import DeviceError, ToolchainError
from sparsec.target import CUBLASLT, LIBRARIES, function_of

NAME = "libcublasLt.so.13"
TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}
"""Of cudaDataType_t."""
COMPUTE_FLOAT = 68
"""CUBLAS_COMPUTE_32F: sums in float32."""
TRANSA, EPILOGUE, BIAS_POINTER = 3, 7, 8
"""Of cublasLtMatmulDescAttributes_t."""
WORKSPACE, FIRST_ALIGNMENT = 1, 5
"""Of cublasLtMatmulPreferenceAttributes_t: bytes of the workspace, and the alignment of A; those of B, C, D follow."""
TRANSPOSED = 1
BIAS, ACTIVATIONS = 4, {"none": 0, "relu": 2, "gelu_tanh": 32}
"""Of cublasLtEpilogue_t, to be added."""
ALIGNMENT = 256
"""Bytes; the most that algorithms ask for."""

_lock = threading.Lock()


class Algorithm(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t, which begins with a cublasLtMatmulAlgo_t."""

    _fields_ = (("data", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int),
                ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4))


@dataclass(frozen=True)
class Product:
    """What is multiplied, and what algorithms depend on.

    Attributes:
        m, n, k: sizes.
        dtype: of A and B.
        out: of C, D and the bias.
        activation: behind the product.
        workspace: bytes.
        residual: C is added.
        alignments: of A, B, C and D, bytes.

    """

    m: int
    n: int
    k: int
    dtype: str
    out: str
    activation: str
    workspace: int
    residual: bool
    alignments: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a product is called with: descriptors of the product, of A, B and both C and D, and the algorithm."""

    product: ctypes.c_void_p
    layouts: tuple[ctypes.c_void_p, ...]
    algorithm: Algorithm


@functools.cache
def load() -> ctypes.CDLL:
    """The library.

    Raises:
        ToolchainError: it is missing; says what to install.

    """
    for name in (NAME, *(str(path / "lib" / NAME) for path in driver.packaged())):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ToolchainError(f"kernels of the artifact call cuBLASLt ({NAME}), which is missing; pip install "
                         f"{LIBRARIES[CUBLASLT]}, or compile the model for a target without '+{CUBLASLT}'")


def absent() -> str | None:
    """What is missing of the library, None where it is here."""
    try:
        load()
    except ToolchainError:
        return f"cuBLASLt ({NAME}) is missing; pip install {LIBRARIES[CUBLASLT]}"
    return None


def register() -> None:
    """Make the function that kernels call.

    Raises:
        ToolchainError: the library is missing.

    """
    load()
    tvm_ffi.register_error("DeviceError", DeviceError)  # TVM raises what it knows by name, and RuntimeError for others
    tvm_ffi.register_global_func(function_of(CUBLASLT), multiply, override=True)


def multiply(m: int, n: int, k: int, dtype: str, out: str, activation: str, workspace: int,
             *given: ctypes.c_void_p) -> None:
    """Put a product on the current stream: A, bias, B, workspace and D lie at the addresses, and C behind, if any.

    Raises:
        DeviceError: the library has no algorithm for it, or fails.

    """
    a, bias, b, scratch, d, *residual = (ctypes.c_void_p(each.value) for each in given)
    c = residual[0] if residual else d
    product = Product(m, n, k, dtype, out, activation, workspace, bool(residual), tuple(map(_alignment, (a, b, c, d))))
    one, beta = ctypes.c_float(1), ctypes.c_float(bool(residual))
    stream = ctypes.c_void_p(tvm_ffi.get_raw_stream(tvm_ffi.device("cuda:0")))
    with _lock:  # the bias is a part of the descriptor
        plan = _plan(product)
        _set(plan.product, BIAS_POINTER, bias)
        left, right, result = plan.layouts
        _call("cublasLtMatmul", _handle(), plan.product, ctypes.byref(one), a, left, b, right, ctypes.byref(beta),
              c, result, d, result, ctypes.byref(plan.algorithm), scratch, ctypes.c_size_t(workspace), stream)


@functools.cache
def _handle() -> ctypes.c_void_p:
    return _made("cublasLtCreate")


@functools.lru_cache(maxsize=4096)
def _plan(product: Product) -> Plan:
    """The descriptors, and the algorithm that the library's heuristic puts first."""
    p, half, out = product, TYPES[product.dtype], TYPES[product.out]
    described = _made("cublasLtMatmulDescCreate", COMPUTE_FLOAT, TYPES["float32"])
    _set(described, TRANSA, ctypes.c_int32(TRANSPOSED))
    _set(described, EPILOGUE, ctypes.c_uint32(BIAS | ACTIVATIONS[p.activation]))
    layouts = tuple(_made("cublasLtMatrixLayoutCreate", kind, ctypes.c_uint64(rows), ctypes.c_uint64(columns),
                          ctypes.c_int64(rows))
                    for kind, rows, columns in ((half, p.k, p.m), (half, p.k, p.n), (out, p.m, p.n)))
    wanted = _made("cublasLtMatmulPreferenceCreate")
    limits: dict[int, ctypes.c_uint64 | ctypes.c_uint32] = {WORKSPACE: ctypes.c_uint64(p.workspace)}
    limits |= {FIRST_ALIGNMENT + at: ctypes.c_uint32(each) for at, each in enumerate(p.alignments)}
    for attribute, value in limits.items():
        _call("cublasLtMatmulPreferenceSetAttribute", wanted, attribute, ctypes.byref(value),
              ctypes.c_size_t(ctypes.sizeof(value)))
    found, count = Algorithm(), ctypes.c_int()
    status = load().cublasLtMatmulAlgoGetHeuristic(_handle(), described, *layouts, layouts[-1], wanted, 1,
                                                   ctypes.byref(found), ctypes.byref(count))
    _call("cublasLtMatmulPreferenceDestroy", wanted)
    if status or not count.value or found.state:
        raise DeviceError(f"cuBLASLt has no algorithm for {p.n} tokens by a weight of {p.m} x {p.k} in {p.dtype} with "
                          f"'{p.activation}' behind it (status {status or found.state}); compile the model for a "
                          f"target without '+{CUBLASLT}'")
    return Plan(described, layouts, found)


def _alignment(address: ctypes.c_void_p) -> int:
    """The bytes that an address is a multiple of, a power of two and at most `ALIGNMENT`."""
    value = (address.value or 0) | ALIGNMENT
    return value & -value


def _set(described: ctypes.c_void_p, attribute: int, value: ctypes.c_void_p | ctypes.c_int32 | ctypes.c_uint32) -> None:
    """Set an attribute of a product's descriptor."""
    _call("cublasLtMatmulDescSetAttribute", described, attribute, ctypes.byref(value),
          ctypes.c_size_t(ctypes.sizeof(value)))


def _made(name: str, *arguments: object) -> ctypes.c_void_p:
    """What a function makes, which writes a handle to its first argument."""
    made = ctypes.c_void_p()
    _call(name, ctypes.byref(made), *arguments)
    return made


def _call(name: str, *arguments: object) -> None:
    if status := getattr(load(), name)(*arguments):
        raise DeviceError(f"{name} failed with status {status}; see cublasStatus_t, and what nvidia-smi shows")
