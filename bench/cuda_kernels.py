"""Products of `cuda_bench.py`: sparsec's kernels, several tiles of every format, beside PyTorch's engines.

Weights are (size, size), 2:4 and float16; activations (columns, size), tokens first. A weight repeats its first ROWS
rows, so that files compress; ROWS is no multiple of a tile's rows, so that a kernel that mixes up tiles errs.
"""

import functools
import hashlib
import io
import lzma
from dataclasses import asdict

import numpy as np
from cuda_clock import Engine, relative_error

SIZES = (4096, 8192)
COLUMNS = (16, 4096, 1, 128, 1024)  # the most telling first
ROWS = 160
TILES = 4  # of every format and kernel: the best predicted, and the three after it
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 16 << 20}]  # fast; the window holds what repeats


def weight_of(rows, size):
    """The whole weight from its first rows."""
    return np.resize(rows, (size, size))


def name_of(size, columns):
    return f"{size} x {size}, {columns}"


def build(folder, target, sizes=SIZES, columns=COLUMNS, tiles=TILES):
    """Write one library of all kernels, the weights, packed and not, and return the cases for the plan."""
    import tvm

    from sparsec.backends.cuda.build import architectures, settings
    from sparsec.backends.cuda.library import build_library
    from sparsec.backends.cuda.products import options
    from sparsec.backends.registry import backend_of
    from sparsec.kernels.cuda.arrange import project
    from sparsec.kernels.cuda.families import FAMILIES
    from sparsec.kernels.cuda.family import GpuProduct
    from sparsec.kernels.emit.epilogue import Epilogue
    from sparsec.target import resolve

    resolved, kernels, cases = resolve(target), {}, []
    machine = backend_of(resolved).calibration(resolved, 1).machine
    for size in sizes:
        rows = project(np.random.default_rng(size).standard_normal((ROWS, size), np.float32)).astype(np.float16)
        np.save(folder / f"weight_{size}.npy", rows)
        weight = weight_of(rows, size)
        for count in columns:
            layer = GpuProduct(weight.astype(np.float32), np.zeros(size, np.float32), count, Epilogue())
            offers, _ = options(layer, resolved, "fp16")
            offers.sort(key=lambda offer: machine.seconds(offer.work))
            candidates, ranks = [], {}
            for offer in offers:
                family, params = FAMILIES[offer.family], offer.params
                rank = ranks[offer.format, offer.kernel] = ranks.get((offer.format, offer.kernel), -1) + 1
                if rank >= tiles:
                    continue
                symbol = f"{offer.format}_{offer.kernel}_{size}_{count}_{rank}".translate(str.maketrans(" :.+", "____"))
                kernels[symbol] = family.build(params, ()).with_attr("global_symbol", symbol).without_attr("tirx.private")
                partial = family.arguments(params).get("partial", [0])[0]
                candidates.append({
                    "format": offer.format, "kernel": offer.kernel, "tile": offer.detail, "symbol": symbol,
                    "predicted_us": machine.seconds(offer.work) * 1e6, "work": asdict(offer.work), "bytes": offer.nbytes, "partial": partial,
                    "packed": store(folder, family.recipe(params).pack(weight))})
            cases.append({"case": name_of(size, count), "kind": "product", "size": size, "columns": count,
                          "candidates": candidates})
            print(f"{name_of(size, count)}: {len(candidates)} kernels", flush=True)
    with settings(resolved) as cuda:
        executable = tvm.compile(tvm.IRModule(kernels), target=cuda, tir_pipeline="tirx")
    library, objects = build_library(executable, architectures(tvm.IRModule(kernels), resolved))
    if objects:
        raise SystemExit("no linker: install ld, lld, gcc or clang")
    (folder / "kernels.so").write_bytes(library)
    return cases


def store(folder, arrays):
    """Write packed arrays, equal ones once; returns the file's name."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path = folder / f"{hashlib.sha256(b''.join(each.tobytes() for each in arrays.values())).hexdigest()[:16]}.npz.xz"
    if not path.exists():
        path.write_bytes(lzma.compress(buffer.getvalue(), filters=FILTERS))
    return path.name


@functools.lru_cache(maxsize=12)  # those of a size
def packed(path, device):
    """Packed arrays as flat tensors, in the order of the kernel's arguments."""
    import torch

    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as arrays:
        # PyTorch moves and copies signed integers everywhere, unsigned ones not.
        signed = [a.view(np.int32) if a.dtype == np.uint32 else a for a in arrays.values()]
        unsigned = [a.dtype == np.uint32 for a in arrays.values()]
    return [(torch.from_numpy(a).to(device), u) for a, u in zip(signed, unsigned, strict=True)]


@functools.cache
def library(path):
    """The library of all kernels in TVM's runtime."""
    import tvm_ffi

    from sparsec.backends.cuda import driver

    driver.load_runtime()
    return tvm_ffi.load_module(str(path))


@functools.lru_cache(maxsize=1)
def dense(path, size, device):
    """A weight as it is."""
    import torch

    return torch.from_numpy(weight_of(np.load(path), size)).to(device)


def engines(folder, case, clock):
    """The engines of a case: PyTorch's, then every candidate of sparsec's."""
    import torch

    size, columns, device = case["size"], case["columns"], clock.name
    weight = dense(folder / f"weight_{size}.npy", size, device)
    values = np.random.default_rng(columns).standard_normal((columns, size), np.float32)
    x = torch.from_numpy(values).half().to(device)
    expected = x.float() @ weight.float().T
    linear = torch.nn.functional.linear

    def checked(calls, **told):
        error = relative_error(calls[0](), expected)
        clock.wait()
        return Engine(calls, error, told)

    def by_blas(name):
        def call(copy):
            usual = torch.backends.cuda.preferred_blas_library()
            torch.backends.cuda.preferred_blas_library(name)
            y = linear(x, copy)
            torch.backends.cuda.preferred_blas_library(usual)
            return y

        copies = [weight.clone() for _ in range(clock.copies(weight.nbytes))]
        return checked([functools.partial(call, copy) for copy in copies])

    def semi_structured(*, cutlass):
        torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = cutlass  # noqa: SLF001 - documented so
        copies = [torch.sparse.to_sparse_semi_structured(weight) for _ in range(clock.copies(weight.nbytes * 9 // 16))]
        return checked([functools.partial(linear, x, copy) for copy in copies])

    def searched():
        compressed = [torch._cslt_compress(weight) for _ in range(clock.copies(weight.nbytes * 9 // 16))]  # noqa: SLF001
        fastest, columns = algorithm(compressed[0], x), padded(x).t()

        def call(copy):
            y = torch._cslt_sparse_mm(copy, columns, alg_id=fastest, transpose_result=True)  # noqa: SLF001
            return y[:len(x)]

        return checked([functools.partial(call, copy) for copy in compressed], algorithm=fastest)

    def own(candidate):
        function = library(folder / "kernels.so")[candidate["symbol"]]
        arrays = packed(folder / candidate["packed"], device)
        bias, y = torch.zeros(size, device=device), torch.empty(columns * size, dtype=torch.half, device=device)
        partial = [torch.empty(candidate["partial"], device=device)] if candidate["partial"] else []

        def call(copy):
            function(*copy, bias, x.reshape(-1), *partial, y)
            return y.view(columns, size)

        copies = [[a.clone().view(torch.uint32) if unsigned else a.clone() for a, unsigned in arrays]
                  for _ in range(clock.copies(candidate["bytes"]))]
        return checked([functools.partial(call, copy) for copy in copies],
                       **{key: candidate[key] for key in ("format", "kernel", "tile", "predicted_us", "work")})

    return {
        "PyTorch dense, cuBLAS": functools.partial(by_blas, "cublas"),
        "PyTorch dense, cuBLASLt": functools.partial(by_blas, "cublaslt"),
        **{candidate["symbol"]: functools.partial(own, candidate) for candidate in case["candidates"]},
        "PyTorch 2:4, cuSPARSELt": functools.partial(semi_structured, cutlass=False),
        "PyTorch 2:4, CUTLASS": functools.partial(semi_structured, cutlass=True),
        "PyTorch 2:4, cuSPARSELt searched": searched,  # last: it has taken a process down
    }


def padded(x):
    """Activations with as many columns as cuSPARSELt takes, a multiple of eight."""
    import torch

    return torch.nn.functional.pad(x, (0, 0, 0, -len(x) % 8))


def algorithm(compressed, x):
    """The fastest algorithm of cuSPARSELt for the product that `linear` asks for."""
    import torch

    return torch._cslt_sparse_mm_search(compressed, padded(x).t(), transpose_result=True)  # noqa: SLF001 - documented so
