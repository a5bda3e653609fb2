"""What tests of kernel families share: caches that cut small layers into pieces, and the comparison."""

import numpy as np

from sparsec.backends.cpu.calls import call
from tests.support.targets import compiled

SMALL = {"l1_bytes": 4096, "l2_bytes": 16384}  # caches that even the layers of tests are cut into chunks and bands for
NARROW_GELU = 4e-4  # see `emit.activations`


def check(family, case, option, features, target):
    """The kernel computes what the family's reference says."""
    kernel = call(case.layer, option, features)
    inputs, inside = (case.inputs[:-1], case.inputs[-1]) if kernel.in_place else (case.inputs, None)
    y = compiled(kernel.kernel, target)(*kernel.constants, *inputs, out=kernel.output.size, dtype=kernel.output.dtype,
                                        inside=inside)
    expected = case.finished(family.reference(case.layer.weight, case.columns, option.params))
    defined = ~np.isnan(expected)
    tolerance = 2e-5 * max(1, np.abs(expected[defined]).max()) + (NARROW_GELU if family.precision != "fp32" else 0)
    np.testing.assert_allclose(y[defined], expected[defined], rtol=0, atol=tolerance)
