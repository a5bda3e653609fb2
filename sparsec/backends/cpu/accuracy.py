"""What narrow numbers do to a layer: the error of its product, on what it sees in samples."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.base import Judge
from sparsec.backends.cpu.layers import allows_fewer_bits, matrix_of
from sparsec.backends.job import Job
from sparsec.backends.observing import calibrated
from sparsec.cost.option import Option
from sparsec.cost.precisions import INTEGERS
from sparsec.graph.compare import relative_error
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.ranges import LayerSamples


def judge(model: ir.Model, job: Job) -> Judge:
    """What tells the errors of options, from real inputs where there are any, else from random ones.

    Real inputs calibrate 8-bit integers: the layers' `RANGES`. Where nodes cannot be executed one by one, no error is
    known.
    """
    seen = calibrated(model, job, allows_fewer_bits, INTEGERS)
    return lambda node, option: None if node not in seen else layer_error(node, option, seen[node])


def layer_error(node: ir.Node, option: Option, seen: LayerSamples) -> float | None:
    """The largest error of the product of a kernel's operands over the product's largest magnitude.

    None where the kernel computes with the numbers of the layer.
    """
    family = FAMILIES[option.family]
    if family.is_exact(option):
        return None
    weight = matrix_of(node)
    return relative_error(family.reference(weight, seen.columns, option.params), weight @ seen.columns)
