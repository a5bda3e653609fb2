#!/usr/bin/env python
"""Prunes trained networks without retraining and counts how often they agree with the dense ones on held-out samples.

prune_table.py [NETWORK ...] prints a table in Markdown for each. SqueezeNet needs its file, which $SQUEEZENET names.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pictures

from sparsec.graph.compare import run_onnxruntime, same_class
from sparsec.oneshot import file
from sparsec.oneshot.file import Method

SQUEEZENET = Path(os.environ.get("SQUEEZENET", "../shared/data/squeezenet_deep_compression.net"))
LEVELS = (0.5, 0.7, 0.8, 0.9)
METHODS = {"magnitude": Method("magnitude"), "LAMP": Method("magnitude", distribution="lamp"), "Wanda": Method("wanda"),
           "RIA": Method("ria"), "OBS": Method("obs"), "OBS, ERK": Method("obs", distribution="erk"),
           "OBS, sensitivity": Method("obs", distribution="sensitivity")}
Case = tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]


def digits_network(name: str) -> Case:
    """A network trained on the digits, the digits that it was trained on, and the others."""
    from sparsec.models.dataset import digits, training_digits
    from sparsec.models.networks import NETWORKS
    from sparsec.models.onnx_export import export
    from sparsec.models.training import Batches, trainer

    network = NETWORKS[name]
    shape = tuple(network.example().shape[1:])
    model = network.build(0)
    trainer(Batches.of(training_digits(), shape, 64, 0), epochs=20, lr=0.02)(model, lambda *_: None)
    with TemporaryDirectory() as folder:
        export(model, Path(folder) / "m.onnx", (network.example(),))
        proto = onnx.load(Path(folder) / "m.onnx")
    entry = proto.graph.input[0].name
    return proto, *({entry: x.reshape(-1, *shape)} for x, _ in (training_digits(), digits()))


def squeezenet() -> Case:
    """The authors' compressed SqueezeNet with the crops of some pictures, and of others."""
    from sparsec.models import squeezenet as read

    return read(SQUEEZENET), *({"data": pictures.crops(names, 96, 227, seed)} for seed, names in enumerate(
        (pictures.CALIBRATION, pictures.HELD_OUT)))


CASES = {"lenet300": lambda: digits_network("lenet300"), "lenet5": lambda: digits_network("lenet5"),
         "squeezenet": squeezenet}


def classes(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs, one row a sample."""
    (name, array), = arrays.items()
    rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(array)
    found = [run_onnxruntime(model, {name: array[i:i + rows]})[0] for i in range(0, len(array), rows)]
    return np.concatenate(found).reshape(len(array), -1)


def main() -> None:
    """Print the tables."""
    for name in sys.argv[1:] or CASES:
        proto, samples, others = CASES[name]()
        expected = classes(proto, others)
        print(f"\n{name}\n\n| sparsity | {' | '.join(METHODS)} |\n|---|{'---|' * len(METHODS)}")
        for level in LEVELS:
            found = [same_class(classes(file.to_sparsity(proto, samples, level, method, lambda *_: None).pruned.model,
                                        others), expected) for method in METHODS.values()]
            print(f"| {level:.0%} | {' | '.join(f'{share:.1%}' for share in found)} |", flush=True)


if __name__ == "__main__":
    main()
