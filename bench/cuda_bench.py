#!/usr/bin/env python3
"""sparsec on a GPU beside cuBLAS, cuSPARSELt, CUTLASS and PyTorch: products, and whole models.

    python bench/cuda_bench.py build FOLDER [MODEL ...]      where sparsec compiles; needs nvcc and PyTorch, no GPU
    python bench/cuda_bench.py run FOLDER -o cuda.json       where the GPU is; needs PyTorch and TVM's runtime, no nvcc
    python bench/cuda_bench.py table cuda.json               the figures in Markdown
    python bench/cuda_bench.py pack FOLDER gpu.tar.gz        all of it in one file, for a GPU without a network

A MODEL is a name of make_models.py, such as bert-24, or bert-24x8 for batches of eight, a decoder of make_dynamic.py,
such as decoder-24, whose steps are measured, or an ONNX file. The run writes what it has after every engine; a
second one goes on where the first was interrupted. Each step of it is watched by a process of its own: an engine that
crashes or hangs is noted as failed and left out, and the rest goes on. `--rehearse` goes through all steps on a CPU,
where sparsec's and PyTorch's sparse engines fail as they must.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import cuda_decoder
import cuda_kernels
import cuda_models
import cuda_pack
import cuda_plan
from cuda_clock import Gpu, Rehearsal, measure
from cuda_results import Results
from cuda_table import render, repriced

KINDS = {"product": cuda_kernels, "model": cuda_models, "decoder": cuda_decoder}
STALLED_S = 120  # without progress, after which an engine is taken to hang
TOLD = ("kind", "size", "columns", "zeros", "precision", "predicted_us", "formats")  # of a case, for tables
FIRST = 6  # products that are measured before any model


def build(arguments):
    """Write everything that a run needs into the folder, with the plan of cases, the most telling first."""
    from sparsec.errors import SparsecError

    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wanted = [] if arguments.products else arguments.models or cuda_models.MODELS
        models = [case for model in wanted for case in builder(model)(folder, arguments.target, [model])]
        chosen = cuda_plan.products(arguments.sizes, arguments.columns, arguments.zeros)
        products, archs = cuda_kernels.build(folder, arguments.target, chosen, arguments.tiles)
    except SparsecError as error:
        sys.exit(f"cuda_bench: {error}")
    cases = [*products[:FIRST], *models, *products[FIRST:]]
    plan = {"target": arguments.target, "archs": archs, "built": time.strftime("%Y-%m-%d %H:%M:%S"),
            "sparsec": version("sparsec"), "cases": cases}
    (folder / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {len(cases)} cases, {size / 1e6:.0f} MB; run it where the GPU is")


def builder(model):
    """What builds a model."""
    return (cuda_decoder if model.startswith("decoder-") else cuda_models).build


def run(arguments):
    """Measure all cases in processes that may die, until nothing is left to do or the time has passed."""
    if arguments.list:
        print(listed(plan_of(arguments.folder), arguments))
        return
    if not arguments.rehearse and (reason := missing(arguments.folder)) is not None:
        sys.exit(f"cuda_bench: {reason}; --rehearse goes through the steps on a CPU")
    options = ["--rehearse"] * arguments.rehearse
    end = time.time() + 60 * arguments.minutes
    command = [sys.executable, __file__, "work", str(arguments.folder), "-o", str(arguments.output),
               "--until", str(end), *options]
    if arguments.output.exists():
        Results(arguments.output).forget()
    while True:  # a process ends well when a group of cases is done, or the time has passed
        if (reason := watch(command, arguments.output, end + cuda_pack.GRACE_S)) is not None:
            if not Results(arguments.output).blame(reason):
                sys.exit(f"cuda_bench: {reason}, with nothing under way; see the messages above")
            print(f"cuda_bench: {reason}; the engine is left out", flush=True)
        left = cases_left(arguments)
        if not left or time.time() > end:
            break
    print(f"{arguments.output}: complete" if not left else
          f"{arguments.output}: {len(left)} cases are left, the next is {left[0]}; run again to go on")


def listed(plan, arguments):
    """What a run would measure, in order, and what bounds its time."""
    def told(case):
        kernels = [f"{len(case['candidates'])} kernels of sparsec's"] if case.get("candidates") else []
        return f"{case['case']}: {' and '.join([*kernels, 'PyTorch'])}"

    left = set(cases_left(arguments))
    return "\n".join([
        f"built {plan['built']} for {plan['target']}; {len(left)} of {len(plan['cases'])} cases are left, in this order:",
        *(told(case) for case in plan["cases"] if case["case"] in left),
        (f"No case begins after {arguments.minutes:g} minutes, and the one under way ends {cuda_pack.GRACE_S} s later at "
         f"the latest; an engine that writes nothing for {STALLED_S} s is left out.")])


def cases_left(arguments):
    """The names of the cases that are not done."""
    results = Results(arguments.output)
    return [case["case"] for case in plan_of(arguments.folder)["cases"] if not results.done(case["case"])]


def watch(command, output, last=float("inf")):
    """Run a process until a time; why it ended if not well: it crashed, or wrote nothing for too long."""
    begun = time.time()
    environment = {**os.environ, "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"}  # else it may compile an extension for minutes
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            time.sleep(0.5)
            if time.time() > last:
                process.kill()
                process.wait()
                return None
            if time.time() - max(begun, output.stat().st_mtime if output.exists() else begun) > STALLED_S:
                process.kill()
                process.wait()
                return f"hung for {STALLED_S} s"
    return None if process.returncode == 0 else f"crashed with code {process.returncode}"


def work(arguments):
    """Measure what is left, as far as the time allows, and up to a case that wants a process of its own."""
    clock, plan = Rehearsal() if arguments.rehearse else Gpu(), plan_of(arguments.folder)
    described = {**{key: plan[key] for key in ("built", "target", "sparsec")}, **versions(), **clock.described()}
    results = Results(arguments.output)
    if any(results.figures.get(key, described[key]) != described[key] for key in ("built", "device")):
        sys.exit(f"cuda_bench: {arguments.output} holds figures of another build or device; name another file with -o")
    results.figures.update(described)
    left = [case for case in plan["cases"] if not results.done(case["case"])]
    for case in itertools.takewhile(lambda case: process_of(case) == process_of(left[0]), left):
        if time.time() > arguments.until:
            break
        told = {key: case[key] for key in TOLD if key in case}
        results.engines(case["case"])
        results.figures["cases"][case["case"]].update(told)
        results.begin(case["case"])
        engines = KINDS[case["kind"]].engines(arguments.folder, case, clock)
        measure(results, case["case"], engines, clock)
        fastest = sorted((each.get("us", each.get("call_us")), name)
                         for name, each in results.engines(case["case"]).items() if "error" in each)
        print(f"{case['case']}: " + ", ".join(f"{name} {us:.1f} us" for us, name in fastest[:3]), flush=True)


def process_of(case):
    """What cases of one process have in common."""
    return case.get("process", "")


def plan_of(folder):
    """What `build` wrote."""
    try:
        return json.loads((folder / "plan.json").read_text())
    except OSError as error:
        sys.exit(f"cuda_bench: {error.filename}: {error.strerror}; the step build writes it")


def missing(folder):
    """Why nothing can be measured here, or None."""
    from sparsec.backends.cuda import driver
    from sparsec.errors import SparsecError

    if (reason := driver.missing(driver.probe())) is not None:
        return f"no GPU: {reason}"
    try:
        driver.check(driver.probe(), plan_of(folder)["archs"], ())
        driver.load_runtime()
    except SparsecError as error:
        return str(error)
    import torch

    return None if torch.cuda.is_available() else f"PyTorch {torch.__version__} has no CUDA; install a build that has"


def version(package):
    """The version that is installed; None of a source tree that was copied."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions():
    """What is installed, and when."""
    names = {name: version(name) for name in ("torch", "apache-tvm", "apache-tvm-ffi")}
    return {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), **names, "driver": driver_version()}


def driver_version():
    """What nvidia-smi says, None where it is not installed."""
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)

    def step(function, name, help):  # noqa: A002 - argparse's name
        added = steps.add_parser(name, help=help)
        added.set_defaults(function=function)
        return added

    building = step(build, "build", "compile kernels and models")
    building.add_argument("folder", type=Path)
    building.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(cuda_models.MODELS)} if not given")
    building.add_argument("--products", action="store_true", help="no models, which are large: 35 MB")
    building.add_argument("--target", default="cuda-sm90", help="that of the GPU; cuda-sm90, a Hopper, if not given")
    building.add_argument("--sizes", type=int, nargs="*", default=cuda_plan.SIZES)
    building.add_argument("--columns", type=int, nargs="*", default=cuda_plan.COLUMNS)
    building.add_argument("--zeros", type=int, nargs="*", default=cuda_plan.ZEROS, help="percent, without a pattern")
    building.add_argument("--tiles", type=int, default=cuda_kernels.TILES, help="kernels of every format")
    for name, function in (("run", run), ("work", work)):
        running = step(function, name, {"run": "measure", "work": "what run starts"}[name])
        running.add_argument("folder", type=Path)
        running.add_argument("-o", "--output", type=Path, default=Path("cuda.json"))
        running.add_argument("--minutes", type=float, default=10, help="after which no case is begun")
        running.add_argument("--rehearse", action="store_true", help="on the CPU")
        running.add_argument("--list", action="store_true", help="say what would be measured")
        running.add_argument("--until", type=float, help=argparse.SUPPRESS)
    step(lambda arguments: print(render(repriced(json.loads(arguments.figures.read_text())))), "table",
         "print figures in Markdown").add_argument("figures", type=Path)
    packing = step(lambda arguments: cuda_pack.pack(arguments.folder, arguments.output), "pack", "pack a built folder")
    packing.add_argument("folder", type=Path)
    packing.add_argument("output", type=Path)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
