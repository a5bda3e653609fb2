#!/usr/bin/env python3
"""Run-time sizes beside onnxruntime on the same file, in turns in one process; models by `make_dynamic.py`.

    python dynamic.py encoder MODEL.onnx [--threads N] [--fixed]     batches and lengths of `LENGTHS`
    python dynamic.py decoder MODEL.onnx [--threads N] [--precision bf16] [--row N]
        prefill, then tokens with their caches, each behind a pause, or N in a row of which the first is not counted
    python dynamic.py text MODEL.onnx [--threads N]     the likeliest tokens are onnxruntime's, and memory does not grow
    python dynamic.py genai MODEL.onnx --genai FOLDER [--genai-python PYTHON] [--threads N] [--precision int4]
        tokens per second of `sparsec.generate` and of onnxruntime-genai on its own form of the decoder, in turns;
        FOLDER is what its builder makes of the folder of `make_genai.py`, PYTHON is one that has it

--fixed compares with an artifact for each size alone, too; --beside FILE times onnxruntime on another form of the
decoder, such as one with 4-bit weights by `onnxruntime.quantization.matmul_nbits_quantizer`; --artifact FILE keeps
what is compiled there, and takes it from there where it is. Times are medians; errors are relative to the largest.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

import sparsec

LENGTHS = [(1, 7), (1, 16), (1, 64), (1, 100), (1, 128), (1, 384), (4, 16), (4, 100)]
PASTS, PREFILLS, TOKENS, ROUNDS = (0, 1, 127, 1000), (1, 5, 64), 16, 9
PAUSE_SECONDS = 0.1  # before every turn: threads of the engine before spin until then
SAME, MANY = 200, 2000
PROMPTS, CONTINUED, TEXTS = (1, 127, 1000), 32, 5


def reference(path: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_turns(runs: Sequence[Callable[[], object]]) -> list[float]:
    """The median milliseconds of each."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for own, run in zip(times, runs, strict=True):
            time.sleep(PAUSE_SECONDS)
            begin = time.perf_counter()
            run()
            own.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(own) for own in times]


def error(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(a - e).max() / (np.abs(e).max() or 1)) if e.size else 0.0
               for a, e in zip(actual, expected, strict=True))


def compiled(path: str, arguments: argparse.Namespace) -> sparsec.InferenceSession:
    """A session of the model, of the artifact that is there or of a new one."""
    file = arguments.artifact
    if file is None or not file.exists():
        artifact = sparsec.compile(path, tune="off", threads=arguments.threads, precision=arguments.precision,
                                   verify=False)
        if file is None:
            return sparsec.InferenceSession(artifact)
        artifact.save(file)
    return sparsec.InferenceSession(str(file))


def encoder(path: str, arguments: argparse.Namespace) -> None:
    options = {"tune": "off", "threads": arguments.threads, "precision": arguments.precision, "verify": False}
    session = compiled(path, arguments)
    ort = reference(path, arguments.threads)
    rng = np.random.default_rng(0)
    for batch, length in LENGTHS:
        feeds = {"input_ids": rng.integers(0, 30000, (batch, length)),
                 "attention_mask": np.ones((batch, length), np.int64)}
        runs = [lambda s=each, f=feeds: s.run(None, f) for each in (session, ort)]
        if arguments.fixed:
            dims = {"batch": batch, "sequence": length}
            fixed = sparsec.InferenceSession(sparsec.compile(path, dims=dims, **options))
            runs.append(lambda s=fixed, f=feeds: s.run(None, f))
        wrong, (ours, theirs, *alone) = error(runs[0](), runs[1]()), in_turns(runs)
        more = f", {ours / alone[0]:.2f} times the artifact for this size" if alone else ""
        print(f"{batch} x {length}: {ours:.2f} ms, onnxruntime {theirs:.2f}, ratio {theirs / ours:.2f}, "
              f"error {wrong:.0e}{more}", flush=True)


def empty(ort: onnxruntime.InferenceSession, past: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {each.name: rng.standard_normal((1, each.shape[1], past, each.shape[3])).astype(np.float32)
            for each in ort.get_inputs()[1:]}


def decoder(path: str, arguments: argparse.Namespace) -> None:
    session = compiled(path, arguments)
    ort = reference(path, arguments.threads)
    others = [reference(str(each), arguments.threads) for each in arguments.beside]
    for past in PASTS:
        caches = empty(ort, past)
        for tokens in PREFILLS:
            feeds = {"input_ids": np.random.default_rng(0).integers(0, 32000, (1, tokens)), **caches}
            print(f"past {past}, {tokens} tokens: error {error(session.run(None, feeds), ort.run(None, feeds)):.0e}")
        turns = [steps(each, caches) for each in (session, ort, *others)]
        times = [[turn_of(each, arguments.row) for each in turns] for _ in range(TOKENS)]
        mine, theirs, *more = (statistics.median(each) for each in zip(*times[2:], strict=True))
        beside = "".join(f", {each.stem} {ms:.2f}" for each, ms in zip(arguments.beside, more, strict=True))
        print(f"past {past}: {mine:.2f} ms a token, onnxruntime {theirs:.2f}, ratio {theirs / mine:.2f}{beside}",
              flush=True)


def text(path: str, arguments: argparse.Namespace) -> None:
    """200 tokens of either, then 1,800 more of ours with the memory that the process has."""
    session = compiled(path, arguments)
    ort = reference(path, arguments.threads)
    prompt, equal = np.array([[1, 450, 4996, 17354]]), 0
    ours, theirs = (likeliest(each, prompt, empty(ort, 0)) for each in (session, ort))
    for mine, other in zip(ours, itertools.islice(theirs, SAME), strict=False):
        equal += mine == other
    print(f"{equal} of {SAME} tokens are onnxruntime's", flush=True)
    del ort, theirs
    gc.collect()
    for count in range(SAME, MANY):
        next(ours)
        if count % 300 == 0 or count == MANY - 1:
            status = Path("/proc/self/status").read_text()
            own = int(status.split("RssAnon:")[1].split()[0])
            print(f"{count + 1} tokens: {own / 1e3:.0f} MB of its own", flush=True)


def likeliest(session: sparsec.InferenceSession | onnxruntime.InferenceSession, prompt: np.ndarray,
              caches: Mapping[str, np.ndarray]) -> Iterator[int]:
    """The likeliest token, one after the other."""
    token = prompt
    while True:
        logits, *present = session.run(None, {"input_ids": token, **caches})
        token, caches = logits[:, -1].argmax(-1)[:, None], dict(zip(caches, present, strict=True))
        del present
        yield int(token.item())


def turn_of(tokens: Iterator[float], row: int) -> float:
    """The median milliseconds of so many tokens behind a pause, without the first where there are others."""
    time.sleep(PAUSE_SECONDS)
    return statistics.median([next(tokens) for _ in range(row)][min(1, row - 1):])


def steps(session: sparsec.InferenceSession | onnxruntime.InferenceSession, caches: Mapping[str, np.ndarray]):
    """The milliseconds of one token after the other, the likeliest, with the caches that come back."""
    token, caches = np.array([[1]]), dict(caches)
    while True:
        begin = time.perf_counter()
        logits, *present = session.run(None, {"input_ids": token, **caches})
        yield 1e3 * (time.perf_counter() - begin)
        token = logits[:, -1].argmax(-1)[:, None]
        caches = dict(zip(caches, present, strict=True))


def genai(path: str, arguments: argparse.Namespace) -> None:
    """Whole generations in turns: the median tokens per second behind the first, and milliseconds to that."""
    session, rng = compiled(path, arguments), np.random.default_rng(0)
    command = [arguments.genai_python, str(Path(__file__).with_name("genai_worker.py")), str(arguments.genai),
               str(arguments.threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        print(f"onnxruntime-genai {json.loads(worker.stdout.readline())}, {arguments.threads} thread(s)", flush=True)
        for length in PROMPTS:
            prompt = rng.integers(3, 32000, length).tolist()
            asked, found = json.dumps({"prompt": prompt, "count": CONTINUED}), []
            for _ in range(TEXTS):
                mine = sparsec.generate(session, prompt, sparsec.Sampling(max_new_tokens=CONTINUED))
                print(asked, file=worker.stdin, flush=True)
                theirs = json.loads(worker.stdout.readline())
                found.append((mine.tokens_per_s, (CONTINUED - 1) / theirs["later_s"], 1e3 * mine.first_s,
                              1e3 * theirs["first_s"]))
            ours, other, first, beside = (statistics.median(each) for each in zip(*found[1:], strict=True))
            print(f"prompt of {length}: {ours:.1f} tokens/s, onnxruntime-genai {other:.1f}, ratio {ours / other:.2f}; "
                  f"first token {first:.1f} ms, {beside:.1f}", flush=True)
        worker.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["encoder", "decoder", "text", "genai"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--beside", type=Path, action="append", default=[])
    parser.add_argument("--row", type=int, default=1)
    parser.add_argument("--fixed", action="store_true")
    parser.add_argument("--genai", type=Path)
    parser.add_argument("--genai-python", default=sys.executable)
    arguments = parser.parse_args()
    {"encoder": encoder, "decoder": decoder, "text": text, "genai": genai}[arguments.kind](arguments.model, arguments)


if __name__ == "__main__":
    main()
