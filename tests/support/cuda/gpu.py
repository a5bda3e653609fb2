"""The GPU at hand, for tests that need one, and the ways in which its kernels are launched."""

import pytest

from sparsec.backends.cuda import dependent, driver
from sparsec.target import CUDA_ARCHS
from tests.support.cuda.sass import needs_nvcc

GPU = driver.probe()
ARCH = "" if GPU is None or GPU.capability is None else "sm" + "".join(map(str, GPU.capability))
"""Its architecture as targets are called, such as "sm90"; empty where there is none."""
NEEDED = [pytest.mark.gpu, needs_nvcc,
          pytest.mark.skipif(ARCH.replace("sm", "sm_") not in CUDA_ARCHS,
                             reason="there is no GPU that kernels are made for")]
"""The marks of a file of such tests."""
EARLY = pytest.mark.skipif(dependent.reject([ARCH.replace("sm", "sm_") or "sm_80"]) is not None,
                           reason="the GPU cannot launch kernels early")
WAYS = [pytest.param("off", id="waiting"), pytest.param("on", id="launched early", marks=EARLY)]
"""Those of `dependent_launch`: so each way is compiled for itself, and an error of either fails."""
