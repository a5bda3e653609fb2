"""PyTorch's engines for the products of `cuda_bench.py`, in half precision and in 8 bits.

What the installed PyTorch lacks fails by itself, and the tables say what is missing.
"""

import functools
from dataclasses import dataclass
from typing import Any

from cuda_clock import Engine, relative_error
from cuda_plan import SEARCHED

BLAS = "PyTorch dense, cuBLAS"


@dataclass(frozen=True)
class Operands:
    """What a product's engines are given: tensors on the clock's device.

    Attributes:
        x: activations (columns, size), or their codes.
        weight: (size, size), or its codes.
        expected: the product in float32.
        clock: `Gpu` or `Rehearsal`.
        x_scale: of all codes of X, None in half precision.
        scale: of the weight's codes, by output.

    """

    x: Any
    weight: Any
    expected: Any
    clock: Any
    x_scale: float | None = None
    scale: Any = None

    def engine(self, calls, after=None, **told):
        """An engine that computes it, after its result has become that of others."""
        y = calls[0]()
        error = relative_error(y if after is None else after(y), self.expected)
        self.clock.wait()
        return Engine(calls, error, told)

    def clones(self, tensor):
        """So many copies of a weight that the L2 cache does not hold the next one."""
        return [tensor.clone() for _ in range(self.clock.copies(tensor.nbytes))]

    @property
    def sparse(self):
        """How many copies of a 2:4 weight are needed, with its metadata."""
        return self.clock.copies(self.weight.nbytes * 9 // 16)


def engines(given, case):
    """Those that come before sparsec's, and those that come behind."""
    if case["precision"] == "int8":
        safe = {BLAS: halves, "PyTorch dense int8, _int_mm": integers}
        last = {"PyTorch 2:4 int8, cuSPARSELt": sparse_integers}
    elif case["precision"] == "fp8":
        safe = {BLAS: halves, "PyTorch dense fp8, _scaled_mm": functools.partial(floats, by_rows=False),
                "PyTorch dense fp8, _scaled_mm by rows": functools.partial(floats, by_rows=True)}
        last = {}
    else:
        safe = {BLAS: functools.partial(by_blas, name="cublas")}
        last = {"PyTorch 2:4, cuSPARSELt": functools.partial(semi_structured, cutlass=False)}
        if case["process"] == SEARCHED:
            last["PyTorch 2:4, cuSPARSELt searched"] = searched
        else:
            safe["PyTorch dense, cuBLASLt"] = functools.partial(by_blas, name="cublaslt")
            last["PyTorch 2:4, CUTLASS"] = functools.partial(semi_structured, cutlass=True)
        last = {} if case["zeros"] else last
    return tuple({name: functools.partial(each, given) for name, each in found.items()} for found in (safe, last))


def needed(name):
    """A function of PyTorch's that not all versions have."""
    import torch

    if not hasattr(torch, name):
        raise AttributeError(f"PyTorch {torch.__version__} has no torch.{name}")
    return getattr(torch, name)


def padded(x, multiple):
    """Activations with rows of zeros, up to a multiple."""
    import torch

    return torch.nn.functional.pad(x, (0, 0, 0, -len(x) % multiple))


def linear(name, x, copies):
    """Calls of `linear` by cuBLAS or cuBLASLt."""
    import torch

    def call(copy):
        usual = torch.backends.cuda.preferred_blas_library()
        torch.backends.cuda.preferred_blas_library(name)
        y = torch.nn.functional.linear(x, copy)
        torch.backends.cuda.preferred_blas_library(usual)
        return y

    return [functools.partial(call, copy) for copy in copies]


def by_blas(given, *, name):
    """Dense, in half precision."""
    return given.engine(linear(name, given.x, given.clones(given.weight)))


def halves(given):
    """The numbers that codes stand for, in half precision."""
    weight = (given.weight.float() * given.scale[:, None]).half()
    return given.engine(linear("cublas", (given.x.float() * given.x_scale).half(), given.clones(weight)))


def semi_structured(given, *, cutlass):
    """2:4 by `to_sparse_semi_structured`."""
    import torch

    torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = cutlass  # noqa: SLF001 - documented so
    copies = [torch.sparse.to_sparse_semi_structured(given.weight) for _ in range(given.sparse)]
    return given.engine([functools.partial(torch.nn.functional.linear, given.x, copy) for copy in copies])


def searched(given):
    """2:4 by the fastest of cuSPARSELt's algorithms for the product that `linear` asks for."""
    compress, multiply = needed("_cslt_compress"), needed("_cslt_sparse_mm")
    compressed, columns = [compress(given.weight) for _ in range(given.sparse)], padded(given.x, 8).t()
    fastest = needed("_cslt_sparse_mm_search")(compressed[0], columns, transpose_result=True)

    def call(copy):
        return multiply(copy, columns, alg_id=fastest, transpose_result=True)[:len(given.x)]

    return given.engine([functools.partial(call, copy) for copy in compressed], algorithm=fastest)


def scaled(given, sums):
    """The product of its sums of codes."""
    return sums.float() * given.scale * given.x_scale


def integers(given):
    """Dense sums in int32, without scales, which `torch._int_mm` leaves to what follows."""
    multiply, rows = needed("_int_mm"), padded(given.x, 32)  # it takes more than 16 rows

    def call(copy):
        return multiply(rows, copy.t())[:len(given.x)]

    calls = [functools.partial(call, copy) for copy in given.clones(given.weight)]
    return given.engine(calls, functools.partial(scaled, given))


def sparse_integers(given):
    """The same of a 2:4 weight."""
    import torch

    compress, multiply, columns = needed("_cslt_compress"), needed("_cslt_sparse_mm"), padded(given.x, 32).t()

    def call(copy):
        return multiply(copy, columns, out_dtype=torch.int32).t()[:len(given.x)]

    calls = [functools.partial(call, compress(given.weight)) for _ in range(given.sparse)]
    return given.engine(calls, functools.partial(scaled, given))


def floats(given, *, by_rows):
    """Dense products of e4m3 in bfloat16, with a scale for every row and output, or one each for X and W."""
    import torch

    multiply, device = needed("_scaled_mm"), given.x.device
    of_x = torch.full((len(given.x), 1) if by_rows else (), given.x_scale, device=device)
    of_w = given.scale[None] if by_rows else given.scale.mean()

    def call(copy):
        return multiply(given.x, copy.t(), scale_a=of_x, scale_b=of_w, out_dtype=torch.bfloat16)

    calls = [functools.partial(call, copy) for copy in given.clones(given.weight)]
    return given.engine(calls, lambda y: y.float() * (given.scale / of_w))
