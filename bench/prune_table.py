#!/usr/bin/env python
"""Prunes trained networks without retraining and counts how often they agree with the dense ones on held-out samples.

prune_table.py [NETWORK ...] prints a table in Markdown for each. $SQUEEZENET names the file of SqueezeNet's weights.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from prune_cases import CASES

from sparsec.graph import ort
from sparsec.graph.compare import same_class
from sparsec.oneshot import file
from sparsec.oneshot.file import Method

LEVELS = (0.5, 0.7, 0.8, 0.9)
METHODS = {"magnitude": Method("magnitude"), "LAMP": Method("magnitude", distribution="lamp"), "Wanda": Method("wanda"),
           "OBS, uniform": Method("obs", distribution="uniform"), "OBS, sensitivity": Method("obs")}


def classes(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs, one row a sample."""
    (name, array), = arrays.items()
    rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(array)
    session = ort.session(model)
    found = [session.run(None, {name: array[i:i + rows]})[0] for i in range(0, len(array), rows)]
    return np.concatenate(found).reshape(len(array), -1)


def main() -> None:
    """Print the tables."""
    for name in sys.argv[1:] or CASES:
        proto, samples, others = CASES[name]()
        expected = classes(proto, others)
        print(f"\n{name}\n\n| sparsity | {' | '.join(METHODS)} |\n|---|{'---|' * len(METHODS)}")
        for level in LEVELS:
            print(f"| {level:.0%} |", end="", flush=True)
            for method in METHODS.values():
                pruned = file.to_sparsity(proto, samples, level, method, lambda *_: None).pruned.model
                print(f" {same_class(classes(pruned, others), expected):.1%} |", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
