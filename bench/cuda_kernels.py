"""Products of `cuda_bench.py`: sparsec's kernels, several tiles of every format, beside PyTorch's engines.

Weights are (size, size), activations (columns, size), tokens first; see `cuda_plan.py`. A weight repeats its first ROWS
rows, so that files compress; ROWS is no multiple of a tile's rows, so that a kernel that mixes up tiles errs. Operands
of 8 bits are codes of the same numbers, a scale for every output and one for all activations.
"""

import functools
import hashlib
import io
import lzma
from dataclasses import asdict

import cuda_peers
import numpy as np
from cuda_peers import Operands

ROWS = 160
TILES = 4  # of every format and kernel: the best predicted, and the three after it
RANGE = 5.0  # of activations that become codes
FEW = ("gaps", "bitmap")  # the families for weights without a pattern
LIBRARY, EARLY = "kernels.so", "early.so"
"""All kernels; and those that are also launched before the ones in front of them have ended."""
FEW_COLUMNS = 128  # up to which a product takes so little that its launch counts
NAMED = {"cublaslt": "sparsec dense, cuBLASLt"}
"""What engines that call a library are called."""
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 16 << 20}]  # fast; the window holds what repeats


def weight_of(rows, size):
    """The whole weight from its first rows."""
    return np.resize(rows, (size, size))


def rows_of(product):
    """The first rows of a product's weight, float16."""
    from sparsec.kernels.cuda.arrange import project

    rng = np.random.default_rng(product.size)
    rows = rng.standard_normal((ROWS, product.size), np.float32)
    if not product.zeros:
        return project(rows).astype(np.float16)
    return np.where(rng.random(rows.shape) * 100 < product.zeros, 0, rows).astype(np.float16)


def weight_file(product):
    """The file that has them."""
    return f"weight_{product.size}{f'_{product.zeros}' * (product.zeros > 0)}{f'_{product.precision}' * eight(product)}.npz"


def eight(product):
    """Whether the operands have 8 bits."""
    return product.precision != "fp16"


def build(folder, target, wanted, tiles=TILES):
    """Write one library of all kernels, and the weights, packed and not.

    Returns the cases for the plan, and the architectures that the library has code for.
    """
    from sparsec.backends.registry import backend_of
    from sparsec.target import resolve

    resolved, kernels, files, cases = resolve(target), {}, {}, []
    machine = backend_of(resolved).calibration(resolved, 1).machine
    for product in wanted:
        layer, scale = layer_of(product)
        candidates = [] if product.process else [
            candidate(layer, offer, f"{number}", kernels, machine, resolved)
            | {"packed": packed_file(folder, product, layer, offer, files)}
            for number, offer in enumerate(chosen(product, layer, resolved, machine, tiles), len(kernels))]
        if eight(product) and not candidates:
            print(f"{product.name}: left out; {target} has no such products", flush=True)
            continue
        if candidates and product.columns <= FEW_COLUMNS and may_be_early(resolved):
            min((each for each in candidates if not each["library"]), key=lambda each: each["predicted_us"])["early"] = True
        write_weight(folder, product)
        cases.append({**product.case, "weight": weight_file(product), "x_scale": scale, "candidates": candidates})
        print(f"{product.name}: {len(candidates)} kernels", flush=True)
    archs = write_library(folder / LIBRARY, kernels, resolved)
    early = {each["symbol"]: kernels[each["symbol"]] for case in cases for each in case["candidates"] if "early" in each}
    if early:
        write_library(folder / EARLY, early, resolved, early=True)
    return cases, archs


def may_be_early(target):
    """Whether kernels of a target can be launched before those in front of them have ended."""
    from sparsec.backends.registry import backend_of

    return backend_of(target).reject_dependent_launch(target) is None


@functools.lru_cache(maxsize=2)
def whole(size, zeros):
    """A weight in float32."""
    from cuda_plan import Product

    return weight_of(rows_of(Product(size, 1, zeros)), size).astype(np.float32)


def layer_of(product):
    """The layer that has a product, and the scale of its activations' codes, None without such."""
    from sparsec.kernels.cuda.codes import E4M3
    from sparsec.kernels.cuda.family import GpuProduct
    from sparsec.kernels.emit.epilogue import Epilogue

    weight, bias = whole(product.size, product.zeros), np.zeros(product.size, np.float32)
    if not eight(product):
        return GpuProduct(weight, bias, product.columns, Epilogue()), None
    # As if zeros surrounded them, for which int8 has no zero point: PyTorch has none either.
    layer = GpuProduct(weight, bias, product.columns, Epilogue(), ranges=(-RANGE, RANGE), written=True, padded=True)
    return layer, layer.codes("int8" if product.precision == "int8" else E4M3).scale


def chosen(product, layer, target, machine, tiles):
    """The best predicted options of every format and kernel."""
    from sparsec.kernels.cuda.families import FAMILIES

    families = [each for each in FAMILIES.values() if bool(each.dtype) == eight(product)]
    if product.zeros:
        families = [each for each in families if each.name in FEW]
    found = [each.offers(layer, target, target.archs, product.precision) for each in families]
    ranks = {}
    for offer in sorted((offer for each in found if not isinstance(each, str) for offer in each),
                        key=lambda offer: machine.seconds(offer.work)):
        rank = ranks[offer.format, offer.kernel] = ranks.get((offer.format, offer.kernel), -1) + 1
        if rank < tiles:
            yield offer


def candidate(layer, offer, number, kernels, machine, target):
    """What the plan says of an option, whose kernel is kept."""
    from sparsec.kernels.cuda.families import FAMILIES

    family, params = FAMILIES[offer.family], offer.params
    size, precision = len(layer.weight), family.dtype and family.precision
    name = " ".join([offer.format, offer.kernel, str(size), str(layer.columns), number])
    symbol = name.translate(str.maketrans(" :.+", "____"))
    kernels[symbol] = family.build(params, ()).with_attr("global_symbol", symbol).without_attr("tirx.private")
    arguments, form = family.arguments(params), f"{offer.format} {precision}".strip()
    return {"format": form if not family.library or target.has(family.library) else "",
            "kernel": offer.kernel, "tile": offer.detail, "symbol": symbol, "library": family.library,
            "predicted_us": machine.seconds(offer.work) * 1e6, "work": asdict(offer.work), "bytes": offer.nbytes,
            "bias": arguments["bias"][1], "x": arguments["x"][1], "partial": arguments.get("partial", [0, ""])}


def packed_file(folder, product, layer, offer, files):
    """The file of an option's packed weight, which options of equal arrays share; `files` has those so far."""
    from sparsec.backends.cuda.products import weight_arrays
    from sparsec.kernels.cuda.families import FAMILIES

    key = (product.size, product.zeros, product.precision, offer.format,
           FAMILIES[offer.family].packed_by(offer.params))
    if key not in files:
        *arrays, _bias = weight_arrays(layer, offer, "float16")
        files[key] = store(folder, {str(at): each for at, each in enumerate(arrays)})
    return files[key]


def write_weight(folder, product):
    """Write a weight's first rows: "values", and their "scale" where they are codes, e4m3 as its bytes."""
    from sparsec.kernels.cuda.codes import E4M3
    from sparsec.kernels.cuda.eight_bits import rounded

    rows, path = rows_of(product), folder / weight_file(product)
    if not eight(product):
        np.savez_compressed(path, values=rows)
    else:
        values, scale = rounded(rows.astype(np.float32), "int8" if product.precision == "int8" else E4M3)
        np.savez_compressed(path, values=values, scale=scale)


def write_library(path, kernels, target, *, early=False):
    """Compile kernels, for the architectures that it returns; `early` ones are launched before those in front of them
    have ended."""
    import tvm

    from sparsec.backends.cuda.build import architectures, asked, settings
    from sparsec.backends.cuda.library import build_library

    module = tvm.IRModule(kernels)
    archs = architectures(module, target)
    with settings(target) as cuda:
        executable = tvm.compile(module, target=cuda, tir_pipeline="tirx")
    library, objects = build_library(executable, archs, overlap=asked(module) if early else None)
    if objects:
        raise SystemExit("no linker: install ld, lld, gcc or clang")
    path.write_bytes(library)
    return archs


def store(folder, arrays):
    """Write packed arrays, equal ones once; returns the file's name."""
    buffer, digest = io.BytesIO(), hashlib.sha256()
    np.savez(buffer, **arrays)
    for each in arrays.values():
        digest.update(str(each.dtype).encode() + each.tobytes())
    path = folder / f"{digest.hexdigest()[:16]}.npz.xz"
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
def stored(folder, file, size, device):
    """A weight's numbers or codes, and its scale by output, None without one."""
    import torch

    with np.load(folder / file) as arrays:
        values = torch.from_numpy(weight_of(arrays["values"], size)).to(device)
        scale = torch.from_numpy(np.resize(arrays["scale"], size)).to(device) if "scale" in arrays else None
    return values, scale


def operands(folder, case, clock):
    """The operands of a case."""
    import torch

    size, columns, device, step = case["size"], case["columns"], clock.name, case["x_scale"]
    weight, scale = stored(folder, case["weight"], size, device)
    values = torch.from_numpy(np.random.default_rng(columns).standard_normal((columns, size), np.float32)).to(device)
    if case["precision"] == "fp16":
        x = values.half()
    elif case["precision"] == "int8":
        x = (values / step).round().clamp(-127, 127).to(torch.int8)
    else:
        x, weight = (values / step).clamp(-448, 448).to(torch.float8_e4m3fn), weight.view(torch.float8_e4m3fn)
    expected = x.float() @ weight.float().T
    return Operands(x, weight, expected if scale is None else expected * scale * step, clock, step, scale)


def own(folder, candidate, given, *, early=False):
    """An engine of sparsec's; `early` ones are launched before those in front of them have ended."""
    import torch

    if candidate["library"]:
        from sparsec.backends.cuda import cublaslt

        cublaslt.register()
    function, (length, dtype) = library(folder / (EARLY if early else LIBRARY))[candidate["symbol"]], candidate["partial"]
    (columns, size), device = given.expected.shape, given.clock.name
    arrays = packed(folder / candidate["packed"], device)
    bias = torch.zeros(size, device=device, dtype=getattr(torch, candidate["bias"]))
    y = torch.empty(columns * size, dtype=torch.half, device=device)
    partial = [torch.empty(length, device=device, dtype=getattr(torch, dtype))] if length else []
    x = (given.x.view(torch.uint8) if candidate["x"] == "uint8" else given.x).reshape(-1)

    def call(copy):
        function(*copy, bias, x, *partial, y)
        return y.view(columns, size)

    copies = [[a.clone().view(torch.uint32) if unsigned else a.clone() for a, unsigned in arrays]
              for _ in range(given.clock.copies(candidate["bytes"]))]
    told = {key: candidate[key] for key in ("format", "kernel", "tile", "predicted_us", "work") if candidate[key]}
    if early:  # no further kernel to choose
        told = {"early_of": candidate["symbol"]}
    return given.engine([functools.partial(call, copy) for copy in copies], **told)


def engines(folder, case, clock):
    """The engines of a case: PyTorch's, and every candidate of sparsec's; last those that have taken a process down."""
    given = operands(folder, case, clock)
    safe, last = cuda_peers.engines(given, case)
    mine = {NAMED.get(each["library"], each["symbol"]): functools.partial(own, folder, each, given)
            for each in case["candidates"]}
    early = {f"{each['symbol']}, early": functools.partial(own, folder, each, given, early=True)
             for each in case["candidates"] if each.get("early")}
    return {**safe, **mine, **early, **last}
