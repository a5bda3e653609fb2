"""Regret of the cost model: linear layers at several sparsities and numbers of rows, its choice beside the fastest kernel.

    python bench/regret.py [--shape 512x512 …] [--rows 1 16 49 196 784] [--sparsity 0.5 0.8 0.9 0.95] [--json FILE]

Measure on a quiet machine; every choice is compared with the `TRIALS` best predicted kernels and the best of each
format.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from sparsec.bench.formats import linear_layer, regret, time_model
from sparsec.cost.calibration import calibration_of
from sparsec.target import resolve

TRIALS = 6


def main() -> None:
    """Print a line for every case, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["256x256", "512x512", "2048x512"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 49, 196, 784])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    target = resolve("cpu")
    calibration = calibration_of(target, 1)
    print(f"rates: {calibration.source}\n")
    print(f"{'shape':>12} {'rows':>5} {'zeros':>6} {'chosen':>10} {'us':>8} {'fastest':>10} {'us':>8} {'ratio':>6}")
    layers = []
    for shape, rows, sparsity in itertools.product(arguments.shape, arguments.rows, arguments.sparsity):
        outputs, inputs = map(int, shape.split("x"))
        for layer in time_model(linear_layer(outputs, inputs, rows, sparsity), target, calibration=calibration,
                                trials=TRIALS):
            chosen, best = layer["chosen"], layer["fastest"]
            print(f"{shape:>12} {rows:5} {100 * sparsity:5.0f}% {chosen['format']:>10} {chosen['measured_us']:8.1f} "
                  f"{best['format']:>10} {best['measured_us']:8.1f} {chosen['measured_us'] / best['measured_us']:6.2f}",
                  flush=True)
            layers.append({"rows": rows, "sparsity": sparsity, **layer})
    summary = regret(layers)
    print(f"\n{summary['layers']} cases: mean {summary['mean']:.3f}, worst {summary['worst']:.2f}; at most "
          f"{summary['never_slower']:.2f}x dense; median prediction error {100 * summary['prediction_error']:.0f} %")
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summary, "layers": layers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
