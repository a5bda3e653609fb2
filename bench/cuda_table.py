"""The figures of `cuda_bench.py` in Markdown: times, regret of the cost model's choices, and its predictions."""

from itertools import groupby

import numpy as np
from cuda_results import within

SLOWER = 1.03  # how much slower than dense a choice may be
PRODUCTS = {
    "Products of 2:4 weights": lambda case: not case.get("zeros") and case.get("precision", "fp16") == "fp16",
    "Products of 8 bits": lambda case: case.get("precision", "fp16") != "fp16",
    "Products of weights without a pattern": lambda case: case.get("zeros", 0) > 0,
}
"""The tables of products, and which have their place there."""
PEERS = ("PyTorch", "sparsec dense, cuBLASLt")
"""What the names of engines that are no kernel of sparsec's own begin with."""


def render(figures):
    """The tables of a file of figures."""
    parts = [header(figures)]
    cases = figures["cases"]
    products = {name: case for name, case in cases.items() if case.get("kind") == "product" and case["engines"]}
    models = {name: case for name, case in cases.items() if case.get("kind") in ("model", "decoder") and case["engines"]}
    for title, of in PRODUCTS.items():
        if found := {name: case for name, case in products.items() if of(case)}:
            parts.append(f"### {title}\n{product_table(found)}")
    if products:
        parts.append("### The cost model\n" + judgement(products))
    if found := {name: case for name, case in products.items() if any("early_of" in each for each in right(case).values())}:
        parts.append("### Kernels launched before those in front of them have ended\n" + early_table(found))
    if models:
        parts.append("### Models\n" + model_table(models))
    if wrong := troubles(cases):
        parts.append("### What failed\n" + "\n".join(wrong))
    return "\n\n".join(parts)


def header(figures):
    """One paragraph on where the figures come from."""
    names = ("driver", "torch", "cuda", "cusparselt", "apache-tvm", "target")
    told = ", ".join(f"{name} {figures[name]}" for name in names if figures.get(name) is not None)
    return f"{figures.get('device')}, {figures.get('date')} ({told})."


def right(case):
    """The engines of a case that were timed and computed what they should."""
    return {name: each for name, each in case["engines"].items()
            if ("us" in each or "call_us" in each) and each["error"] <= within(case)}


def own(case):
    """sparsec's kernels by format, each format's fastest first."""
    candidates = sorted((each for each in right(case).values() if "format" in each), key=lambda each: each["us"])
    by_format = {}
    for each in candidates:
        by_format.setdefault(each["format"], []).append(each)
    return by_format


def best(case, prefix):
    """The least time of PyTorch's engines whose name begins so, None without one."""
    return min((each["us"] for name, each in right(case).items() if name.startswith(prefix)), default=None)


def product_table(products):
    """Microseconds of a call, the fastest tile of each format."""
    formats = list(dict.fromkeys(form for case in products.values() for form in own(case)))
    peers = list(dict.fromkeys(name for case in products.values() for name in case["engines"]
                               if name.startswith(PEERS)))
    rows = []
    for name, case in products.items():
        mine, found, rival = own(case), right(case), best(case, "PyTorch dense")
        fastest = min((each[0]["us"] for each in mine.values()), default=None)
        rows.append([name, *(us(found.get(peer, {}).get("us")) for peer in peers),
                     *(us(mine[form][0]["us"] if form in mine else None) for form in formats),
                     "-" if None in (rival, fastest) else f"{rival / fastest:.2f}"])
    names = [name.removeprefix("PyTorch ") for name in peers]
    return markdown(["weight, tokens (us)", *names, *(f"sparsec {form}" for form in formats), "dense / sparsec"], rows)


def repriced(figures):
    """The figures with the predictions of the cost model at hand, where what a kernel does is written with its time."""
    from sparsec.cost.gpu import DEVICES
    from sparsec.cost.option import GpuWork
    from sparsec.target import cuda_archs

    machine = DEVICES[cuda_archs(figures["target"])[0]]
    for case in figures["cases"].values():
        for each in case["engines"].values():
            if "work" in each:
                each["predicted_us"] = machine.seconds(GpuWork(**each["work"])) * 1e6
    return figures


def judgement(products):
    """Regret, predictions, and the tiles that would have been better."""
    rows, late = [], []
    for name, case in products.items():
        mine = own(case)
        if not mine:
            continue
        candidates = [each for form in mine.values() for each in form]
        chosen = min(candidates, key=lambda each: each["predicted_us"])
        fastest = min(candidates, key=lambda each: each["us"])
        dense = mine.get("dense", [None])[0]
        ratio = chosen["us"] / dense["us"] if dense else None
        if ratio is not None and ratio > SLOWER:
            late.append(f"{name} ({ratio:.2f})")
        rows.append([name, described(chosen), us(chosen["predicted_us"]), us(chosen["us"]), described(fastest),
                     f"{chosen['us'] / fastest['us']:.2f}", "-" if ratio is None else f"{ratio:.2f}"])
    table = markdown(["weight, tokens", "chosen", "predicted us", "measured us", "fastest", "regret", "/ dense"], rows)
    regrets = [float(row[5]) for row in rows]
    told = f"Regret: {np.mean(regrets):.2f} on average, {max(regrets):.2f} at most. " if regrets else ""
    told += f"Choices more than 3 % slower than sparsec's own dense kernel: {', '.join(late) or 'none'}."
    return f"{table}\n\n{told}\n\n{predictions(products)}"


def predictions(products):
    """Measured over predicted time of every kernel, by format and tokens."""
    timed = [(each["format"], case["columns"], each["us"] / each["predicted_us"])
             for case in products.values() for form in own(case).values() for each in form]
    rows = []
    for (form, columns), group in groupby(sorted(timed), key=lambda each: each[:2]):
        ratios = [each[2] for each in group]
        rows.append([form, columns, len(ratios), *(f"{np.percentile(ratios, at):.2f}" for at in (0, 50, 100))])
    return markdown(["format", "tokens", "kernels", "least measured / predicted", "median", "most"], rows)


def early_table(products):
    """Times of kernels in a row, launched when those in front of them have ended, and before."""
    pairs = [(name, found[each["early_of"]], each) for name, case in products.items() for found in [right(case)]
             for each in found.values() if each.get("early_of") in found]
    rows = [[name, described(late), us(late["us"]), us(early["us"]), f"{late['us'] / early['us']:.2f}"]
            for name, late, early in pairs]
    return markdown(["weight, tokens", "kernel", "us", "early us", "us / early us"], rows)


def model_table(models):
    """Times of whole models: of the kernels alone, and as a caller waits for them."""
    rows = []
    for name, case in models.items():
        for engine, each in right(case).items():
            predicted = us(case.get("predicted_us")) if engine == "sparsec" else ""
            rows.append([name, engine, us(each.get("us")), us(each.get("call_us")), predicted, f"{each['error']:.1e}"])
    return markdown(["model", "engine", "GPU alone us", "call with copies us", "predicted products us", "error"], rows)


def troubles(cases):
    """A line for every engine that failed or was wrong."""
    lines = [f"- {name}: {case['failed']}" for name, case in cases.items() if "failed" in case]
    for name, case in cases.items():
        for engine, each in case["engines"].items():
            if "failed" in each:
                lines.append(f"- {name}, {engine}: {each['failed']}")
            elif each.get("error", 0) > within(case):
                lines.append(f"- {name}, {engine}: wrong by {each['error']:.1e} of the largest value")
    return lines


def described(kernel):
    """A kernel in a few words."""
    return f"{kernel['format']}, {kernel['tile']}"


def us(value):
    """Microseconds, or a dash."""
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def markdown(names, rows):
    """A table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
