#!/usr/bin/env python3
"""Architectures as their libraries export them, with random pruned weights: right, refused, wrong, crashed or slower.

    python zoo.py make OUT [NAME ...]     exports; needs torch, torchvision, timm, transformers and skl2onnx
    python zoo.py run OUT [NAME ...]      compiles each in a process of its own and compares it with onnxruntime

    python zoo.py dense OUT DENSE [NAME ...]  writes the same models to DENSE without zeros in their weights
    python zoo.py table OUT [DENSE]       prints what `run` has found there as the table of docs/zoo.md

`make` writes OUT/NAME.onnx and OUT/NAME.npz with inputs, `run` OUT/zoo.json and a table. Weights decide nothing about
speed, their positions and shapes do: 90 % of every weight but the first layer's and embeddings' are zero, by magnitude.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from zoo_models import SKLEARN, builders

PRUNED = 0.9
SECONDS = 240
"""What compiling and running one model may take."""
ROUNDS, ROUND_S = 9, 0.1


def _prune(model: Any) -> None:
    """Zeros in every matrix and kernel but the first one's, the embeddings' and the depthwise ones'."""
    from torch import nn

    first = True
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim < 2 or isinstance(module, nn.Embedding) or weight[0].numel() < 32:
                continue
            if first:
                first = False
                continue
            if "bias" in name and weight.ndim < 2:
                continue
            if not weight.any():  # a head that training begins at zero
                nn.init.normal_(weight, std=0.02)
            kept = weight.detach().abs().flatten()
            threshold = kept.kthvalue(max(1, int(kept.numel() * PRUNED))).values
            weight.data[weight.abs() <= threshold] = 0


def make(out: Path, names: list[str]) -> None:
    """Export every model, or those named."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    make_sklearn(out, names)

    warnings.filterwarnings("ignore")
    torch.backends.mha.set_fastpath_enabled(value=False)  # its fused attention has no form in ONNX
    for name, build in builders().items():
        if (names and name not in names) or (out / f"{name}.onnx").exists():
            continue
        try:
            torch.manual_seed(0)
            model, inputs = build()
            model.eval()
            _prune(model)
            path = out / f"{name}.onnx"
            with torch.no_grad():
                torch.onnx.export(model, inputs, path, dynamo=False, opset_version=17,
                                  input_names=[f"input{index}" for index in range(len(inputs))])
            flat = [x for value in inputs for x in (value if isinstance(value, list) else [value])]
            np.savez(out / f"{name}.npz", **{f"input{index}": x.numpy() for index, x in enumerate(flat)})
            print(f"made {name}", flush=True)
        except Exception as error:
            print(f"not exported {name}: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)


def make_sklearn(out: Path, names: list[str]) -> None:
    """Export fitted estimators of scikit-learn by skl2onnx, or those named."""
    import sklearn.cluster
    import sklearn.decomposition
    import sklearn.gaussian_process
    import sklearn.linear_model
    import sklearn.neural_network
    import sklearn.pipeline
    import sklearn.preprocessing
    from skl2onnx import to_onnx

    x = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    y = (x[:, :3] ** 2).sum(1)
    estimators = {"kmeans": sklearn.cluster.KMeans(10, n_init=1),
                  "gaussian_process": sklearn.gaussian_process.GaussianProcessRegressor(),
                  "mlp": sklearn.neural_network.MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=20),
                  "pca": sklearn.decomposition.PCA(8), "ridge": sklearn.linear_model.Ridge(),
                  "logistic": sklearn.pipeline.make_pipeline(
                      sklearn.preprocessing.StandardScaler(), sklearn.linear_model.LogisticRegression())}
    for name in SKLEARN:
        if names and f"sk_{name}" not in names:
            continue
        path = out / f"sk_{name}.onnx"
        fitted = estimators[name].fit(x, y if name != "logistic" else np.digitize(y, (1, 2, 4)))
        options = {id(fitted): {"zipmap": False}} if name == "logistic" else None
        path.write_bytes(to_onnx(fitted, x[:1], target_opset=17, options=options).SerializeToString())
        np.savez(path.with_suffix(".npz"), X=x[:20])
        print(f"made sk_{name}", flush=True)


def run(out: Path, names: list[str]) -> None:
    """Compile every model there is, or those named, and print a table."""
    results = json.loads((out / "zoo.json").read_text()) if (out / "zoo.json").exists() else {}
    for path in sorted(out.glob("*.onnx"), key=lambda each: each.stat().st_size):
        if (names and path.stem not in names) or (not names and path.stem in results):
            continue
        begin = time.perf_counter()
        try:
            done = subprocess.run([sys.executable, __file__, "one", str(path)], capture_output=True, text=True,
                                  timeout=SECONDS, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            result = json.loads(lines[-1]) if lines else {"verdict": "crashed", "why": done.stderr[-300:]}
        except subprocess.TimeoutExpired:
            result = {"verdict": "too slow to compile", "why": f"over {SECONDS} s"}
        result["seconds"] = round(time.perf_counter() - begin, 1)
        results[path.stem] = result
        (out / "zoo.json").write_text(json.dumps(results, indent=1))
        print(f"{path.stem:45} {result['verdict']:10} {result.get('ratio', ''):>6} {result['seconds']:7} s  "
              f"{result.get('why', '')[:200]}", flush=True)
    counts: dict[str, int] = {}
    for result in results.values():
        counts[result["verdict"]] = counts.get(result["verdict"], 0) + 1
    print(f"{len(results)} models: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))


def dense(out: Path, arguments: list[str]) -> None:
    """Write models whose pruned weights have numbers of their own size in place of zeros, with the same inputs."""
    import onnx

    target, names = Path(arguments[0]), arguments[1:]
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for path in sorted(out.glob("*.onnx")):
        if (names and path.stem not in names) or (target / path.name).exists():
            continue
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            weight = onnx.numpy_helper.to_array(tensor)
            zeros = weight == 0
            if weight.ndim > 1 and weight.dtype == np.float32 and zeros.mean() > PRUNED / 2:
                filled = np.where(zeros, rng.standard_normal(weight.shape) * weight.std(), weight)
                tensor.CopyFrom(onnx.numpy_helper.from_array(filled.astype(np.float32), tensor.name))
        onnx.save(model, target / path.name)
        (target / f"{path.stem}.npz").write_bytes((out / f"{path.stem}.npz").read_bytes())


def table(out: Path, arguments: list[str]) -> None:
    """Print a row for every model: the verdict, onnxruntime's time over sparsec's, and what runs without kernels.

    With a second folder, that of the dense models, their ratios stand beside.
    """
    folders = [out, *map(Path, arguments)]
    found = [json.loads((folder / "zoo.json").read_text()) for folder in folders]
    print("| model | verdict | ratio |" + " ratio without zeros |" * len(arguments) + " compiled in | outside sparsec's "
          "kernels |\n|" + "---|" * (5 + len(arguments)))
    for name, pruned in sorted(found[0].items()):
        outside = pruned.get("why", "") if pruned["verdict"] in ("right", "slower") else ""
        ratios = [str(each.get(name, {}).get("ratio", "-")) for each in found]
        seconds = f"{pruned['compile']} s" if "compile" in pruned else "-"
        print(f"| {name} | {pruned['verdict']} | {' | '.join(ratios)} | {seconds} | "
              f"{outside.removeprefix('outside: ') or '-'} |")


def one(path: Path) -> dict[str, Any]:
    """The verdict on one model, with onnxruntime's time over sparsec's, one thread each."""
    import sparsec
    from sparsec.graph.ort import session

    with np.load(path.with_suffix(".npz")) as archive:
        arrays = dict(archive)
    reference = session(path, 1)
    declared = [value.name for value in reference.get_inputs()]
    feeds = dict(zip(declared, arrays.values(), strict=False))
    expected = reference.run(None, feeds)
    begin = time.process_time()
    try:
        artifact = sparsec.compile(path, tune="off", inputs=feeds,
                                   shapes={name: array.shape for name, array in feeds.items()})
    except sparsec.SparsecError as error:
        kind = "wrong" if type(error).__name__ == "VerificationError" else \
            "crashed" if type(error).__name__ == "InternalError" else "refused"
        return {"verdict": kind, "why": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return {"verdict": "crashed", "why": f"{type(error).__name__}: {error} {traceback.format_exc()[-300:]}"}
    seconds = round(time.process_time() - begin, 1)
    compiled = sparsec.InferenceSession(artifact)
    found = compiled.run(None, feeds)
    worst = max((float(np.abs(np.float64(a) - b).max() / max(1e-20, np.abs(b).max())) if a.size else 0.0)
                if a.shape == np.shape(b) else np.inf for a, b in zip(found, expected, strict=True))
    ratio = _ratio(lambda: compiled.run(None, feeds), lambda: reference.run(None, feeds))
    verdict = "wrong" if not worst < 1e-3 else "right" if ratio >= 1 else "slower"
    outside = sorted({each["operator"] for each in artifact.report["outside"]})
    return {"verdict": verdict, "error": worst, "ratio": round(ratio, 2), "compile": seconds,
            "why": f"outside: {outside}" if outside else ""}


def _ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Their time over ours: medians of rounds that take turns, of the processor's time, which others do not share."""
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for index, call in enumerate((ours, theirs)):
            begin, calls = time.process_time(), 0
            while calls == 0 or time.process_time() - begin < ROUND_S:
                call()
                calls += 1
            times[index].append((time.process_time() - begin) / calls)
    return float(np.median(times[1]) / np.median(times[0]))


if __name__ == "__main__":
    if sys.argv[1] == "one":
        print(json.dumps(one(Path(sys.argv[2]))))
    else:
        {"make": make, "run": run, "dense": dense, "table": table}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
