"""Products on tensor cores: sparsec's 2:4 and dense kernels beside cuBLASLt and PyTorch's semi-structured sparsity.

    python bench/cuda_bench.py build kernels --target cuda-sm80+sm90      where sparsec can compile; needs no GPU
    python bench/cuda_bench.py run kernels -o cuda.json                   where the GPU is; needs PyTorch, not the compiler

Weights are (size, size) and 2:4, activations (N, size), float16, sums float32, tokens first. All engines run in one
process on the same memory, in turns, from CUDA graphs, so that no engine pays for its host code; times are medians over
rounds. Each engine's output is compared with the dense product in float32.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIZES = (4096, 8192)
COLUMNS = (1, 16, 128, 1024, 4096)
FORMATS = ("nm 2:4", "dense")
CALLS, ROUNDS = 20, 15


def weight_of(size):
    """A 2:4 weight, the same wherever it is made."""
    from sparsec.backends.cuda.arrange import project

    return project(np.random.default_rng(size).standard_normal((size, size), np.float32)).astype(np.float16)


def name_of(form, size, columns):
    return f"{form.replace(' ', '_').replace(':', '_')}_{size}_{columns}"


def build(folder, target):
    """Write one library of all kernels, their plan, and the packed weights."""
    import tvm

    from sparsec.backends.cuda.build import settings
    from sparsec.backends.cuda.library import build_library
    from sparsec.backends.cuda.products import FAMILIES, WAYS, Layer, options
    from sparsec.cost.calibration import calibration_of
    from sparsec.cost.plan import choose
    from sparsec.kernels.product import Epilogue
    from sparsec.target import resolve

    resolved, kernels, plan = resolve(target), {}, {}
    machine = calibration_of(resolved, 1).machine
    folder.mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        weight, packed = weight_of(size), {}
        for columns in COLUMNS:
            offers, _ = options(Layer(weight, np.zeros(size, np.float32), columns, Epilogue()), resolved.archs, "float16")
            for form in FORMATS:
                winner = choose(form, [offer for offer in offers if offer.format == form], machine=machine).winner
                family, params = FAMILIES[WAYS[form].family], winner.option.params.params
                name = name_of(form, size, columns)
                kernels[name] = family.build(params).with_attr("global_symbol", name).without_attr("tirx.private")
                packed.setdefault(form, family.pack(weight, params))
                plan[name] = {"arrays": list(packed[form]), "predicted_us": winner.predicted_s * 1e6,
                              "detail": winner.option.detail, "partial": family.arguments(params).get("partial", [0])[0]}
        for form, arrays in packed.items():
            np.savez(folder / f"{name_of(form, size, 0)}.npz", **arrays)
    with settings(resolved) as cuda:
        executable = tvm.compile(tvm.IRModule(kernels), target=cuda, tir_pipeline="tirx")
    library, objects = build_library(executable, resolved.archs)
    if objects:
        sys.exit("no linker: install ld, lld, gcc or clang")
    (folder / "kernels.so").write_bytes(library)
    (folder / "plan.json").write_text(json.dumps({"target": target, "kernels": plan}, indent=1))


def engines(folder, plan, module, size, columns, x):
    """The products by name: functions without arguments, and what each computes (columns, size)."""
    import torch
    from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

    weight = torch.from_numpy(weight_of(size)).cuda()
    found = {"cuBLASLt dense": lambda: torch.nn.functional.linear(x, weight)}
    for name, cutlass in (("cuSPARSELt", False), ("CUTLASS", True)):
        SparseSemiStructuredTensor._FORCE_CUTLASS = cutlass  # noqa: SLF001 - PyTorch's documented switch
        try:
            sparse = to_sparse_semi_structured(weight)
            torch.nn.functional.linear(x, sparse)
            found[name] = lambda sparse=sparse: torch.nn.functional.linear(x, sparse)
        except Exception as error:
            print(f"{name} does not run {size} x {size} x {columns}: {str(error).splitlines()[0]}", file=sys.stderr)
    for form in FORMATS:
        name = name_of(form, size, columns)
        with np.load(folder / f"{name_of(form, size, 0)}.npz") as packed:
            arrays = [torch.from_numpy(packed[each].view(np.int32) if packed[each].dtype == np.uint32 else packed[each])
                      for each in plan[name]["arrays"]]
        arrays = [a.cuda().view(torch.uint32) if a.dtype == torch.int32 else a.cuda() for a in arrays]
        y = torch.empty(columns * size, dtype=torch.float16, device="cuda")
        partial = [torch.empty(plan[name]["partial"], device="cuda")] if plan[name]["partial"] else []
        arguments = [*arrays, torch.zeros(size, device="cuda"), x.reshape(-1), *partial, y]
        found[f"sparsec {form}"] = (lambda function=module[name], arguments=arguments, y=y:
                                    (function(*arguments), y.view(columns, size))[1])
    return found, x.float() @ weight.float().T


def seconds_of(function):
    """A function that replays CALLS calls from a CUDA graph and returns the seconds of one."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            function()

    def replay():
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / CALLS

    return replay


def measure(folder, plan, module, size, columns):
    """A row of the table."""
    import torch

    x = torch.from_numpy(np.random.default_rng(columns).standard_normal((columns, size), np.float32)).half().cuda()
    found, reference = engines(folder, plan, module, size, columns, x)
    errors = {name: float((function().float() - reference).abs().max() / reference.abs().max())
              for name, function in found.items()}
    replays = {name: seconds_of(function) for name, function in found.items()}
    times = {name: [] for name in found}
    for _ in range(ROUNDS):
        for name, replay in replays.items():
            times[name].append(replay())
    row = {name: {"us": float(np.median(each)) * 1e6, "error": errors[name]} for name, each in times.items()}
    print(size, columns, {name: f"{each['us']:.1f} us" for name, each in row.items()}, flush=True)
    return {"size": size, "columns": columns, "engines": row}


def run(folder, output):
    """Measure every size and write the figures."""
    import torch
    import tvm_ffi

    from sparsec.backends.cuda import driver

    described = json.loads((folder / "plan.json").read_text())
    driver.load_runtime()
    module = tvm_ffi.load_module(str(folder / "kernels.so"))
    rows = [measure(folder, described["kernels"], module, size, columns) for size in SIZES for columns in COLUMNS]
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    output.write_text(json.dumps({
        "date": time.strftime("%Y-%m-%d"), "device": told, "torch": torch.__version__, "cuda": torch.version.cuda,
        "python": platform.python_version(), "target": described["target"], "rows": rows}, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("build", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="cuda-sm80+sm90")
    parser.add_argument("-o", "--output", type=Path, default=Path("cuda.json"))
    arguments = parser.parse_args()
    if arguments.step == "build":
        build(arguments.folder, arguments.target)
    else:
        run(arguments.folder, arguments.output)


if __name__ == "__main__":
    main()
