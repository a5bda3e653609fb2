"""What runs on which GPU, and the sentence for what does not."""

import numpy as np
import pytest

from sparsec.backends.cuda import driver
from sparsec.backends.cuda.driver import Gpu
from sparsec.errors import ArtifactError
from sparsec.machine.memory import CPU, on_device

A100, A40, H100, B200, T4 = (8, 0), (8, 6), (9, 0), (10, 0), (7, 5)
NEW = (13, 2)


@pytest.mark.parametrize(("archs", "card"), [
    (["sm_80"], A100), (["sm_80"], A40), (["sm_80", "sm_90"], H100), (["sm_80"], H100), (["sm_86"], A40),
    (["sm_90"], B200), (["sm_80", "sm_90"], B200), (["sm_90a"], H100)])
def test_code_of_the_same_generation_or_newer_ptx_runs(archs, card):
    driver.check(Gpu(NEW, card), archs, (13, 0))


@pytest.mark.parametrize(("gpu", "archs", "reason"), [
    (None, ["sm_80"], "no NVIDIA driver"),
    (Gpu(NEW, None), ["sm_80"], "no GPU"),
    (Gpu((12, 4), A100), ["sm_80"], "supports CUDA 12.4 .* install driver 580"),
    (Gpu(NEW, A100), ["sm_90"], "code for sm_90 and this GPU is an sm_80; compile .* with --target cuda-sm80$"),
    (Gpu(NEW, A100), ["sm_86"], "this GPU is an sm_80"),
    (Gpu(NEW, T4), ["sm_80"], "sparse tensor cores begin with sm_80"),
    (Gpu(NEW, A100), ["sm_90a"], "code for sm_90a alone and this GPU is an sm_80; .* with --target cuda-sm80$"),
    (Gpu(NEW, B200), ["sm_90a"], r"sm_90a alone and this GPU is an sm_100; .* with --target cuda-sm80\+sm90$"),
    (Gpu(NEW, T4), ["sm_90a"], "sparse tensor cores begin with sm_80"),
    (Gpu((13, 0), H100), ["sm_80"], "PTX is of CUDA 13.2, which a driver for CUDA 13.0 refuses"),
])
def test_what_cannot_run_is_refused(gpu, archs, reason):
    with pytest.raises(ArtifactError, match=reason):
        driver.check(gpu, archs, (13, 2))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (3, 5), (0, 4)])
def test_arrays_come_back_from_a_device(dtype, shape):
    memory, array = on_device(CPU), np.ones(shape).astype(dtype)
    found = memory.fetch(memory.place(array), frozenset())
    assert found.dtype == array.dtype
    assert (found == array).all()
