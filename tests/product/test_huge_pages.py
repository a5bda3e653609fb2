"""Weights and activations in huge pages: nothing but the speed changes, and what is small keeps ordinary pages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsec
from sparsec.artifact import container
from sparsec.machine import huge_pages
from sparsec.machine.memory import ALIGNMENT

SMAPS = Path("/proc/self/smaps")
TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[1,1,256,256] x) => (float[1,1,254,254] y)
<float[16,1,3,3] first, float[1,16,1,1] second> {
  inner = Conv<kernel_shape = [3,3]>(x, first)
  positive = Relu(inner)
  y = Conv<kernel_shape = [1,1]>(positive, second)
}"""


@given(st.lists(st.integers(0, 1 << 18), min_size=8, max_size=20))
def test_arrays_of_an_arena_lie_apart(sizes: list[int]) -> None:
    allocate = huge_pages.allocator(huge_pages.PAGE + 8 * sum(sizes), ALIGNMENT)
    assert allocate is not None
    arrays = [allocate((size,), np.dtype(np.int32)) for size in sizes]
    for number, array in enumerate(arrays):
        assert array.ctypes.data % ALIGNMENT == 0
        assert not array.any()
        array[...] = number + 1
    assert all((array == number + 1).all() for number, array in enumerate(arrays))


@pytest.mark.skipif(not SMAPS.exists(), reason="the system does not tell of its mappings")
def test_an_arena_is_of_one_process_and_asks_for_huge_pages() -> None:
    allocate = huge_pages.allocator(2 * huge_pages.PAGE, ALIGNMENT)
    assert allocate is not None
    array = allocate((2 * huge_pages.PAGE,), np.dtype(np.uint8))
    flags = next(flags for first, last, flags in mappings() if first <= array.ctypes.data < last)
    assert "sh" not in flags  # Linux gives shared memory no huge pages by default
    assert "hg" in flags


@pytest.mark.skipif(not SMAPS.exists(), reason="the system does not tell of its mappings")
@pytest.mark.parametrize("setting", ["", "never"])
def test_weights_that_are_mapped_ask_for_huge_pages(setting: str, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(huge_pages.VARIABLE, setting)
    weight = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,1024] x) => (float[1,1024] y) { y = MatMul(x, weight) }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    sparsec.compile(model, tune="off").save(tmp_path / "model.sparsec")
    found = container.open_mapped(tmp_path / "model.sparsec", whole=False)
    address = np.frombuffer(found.weights.part(0, len(found.weights)), np.uint8).ctypes.data
    flags = next(flags for first, last, flags in mappings() if first <= address < last)
    assert ("hg" in flags) == (setting == "")


def mappings() -> Iterator[tuple[int, int, list[str]]]:
    """Where each mapping of this process begins and ends, and its flags as Linux calls them."""
    for line in SMAPS.read_text().splitlines():
        if found := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            first, last = (int(each, 16) for each in found.groups())
        if line.startswith("VmFlags:"):
            yield first, last, line.split()[1:]


FORKED = """
import os
import sys
import numpy as np
import sparsec
session, me = sparsec.InferenceSession(sys.argv[1]), 0
inputs = np.random.default_rng(0).standard_normal((2, 1, 1, 512, 512)).astype(np.float32)
expected = [session.run(None, {"x": x})[0].copy() for x in inputs]
child = os.fork()
me = 0 if child else 1
wrong = sum(not np.array_equal(session.run(None, {"x": inputs[me]})[0], expected[me]) for _ in range(50))
if not child:
    os._exit(wrong)
sys.exit(wrong + os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_session_that_is_forked_computes_in_memory_of_its_own(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,1,512,512] x) => (float[1,16,1,1] y)
        { inner = Conv<kernel_shape = [3,3]>(x, first) y = GlobalAveragePool(inner) }""")
    weight = np.random.default_rng(0).standard_normal((16, 1, 3, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "first"))
    artifact = sparsec.compile(model, tune="off")
    assert artifact.manifest.workspace is not None
    assert artifact.manifest.workspace > huge_pages.PAGE
    artifact.save(tmp_path / "model.sparsec")
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "model.sparsec")], check=True, timeout=120)


@pytest.mark.parametrize(("nbytes", "setting"), [(huge_pages.PAGE - 1, ""), (2 * huge_pages.PAGE, "never")])
def test_small_or_unwanted_arenas_do_not_exist(nbytes: int, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(huge_pages.VARIABLE, setting)
    assert huge_pages.allocator(nbytes, ALIGNMENT) is None


@pytest.mark.parametrize("nbytes", [1 << 60, 1 << 70])
def test_an_arena_that_is_too_large_is_said_to_be(nbytes: int) -> None:
    with pytest.raises(MemoryError, match=str(nbytes)):
        huge_pages.allocator(nbytes, ALIGNMENT)


def test_programs_ask_for_huge_pages_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    weights = {"first": (16, 1, 3, 3), "second": (1, 16, 1, 1)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)
                                   for name, shape in weights.items())
    x = {"x": rng.standard_normal((1, 1, 256, 256), np.float32)}
    outputs = {}
    for setting in ("", "never"):
        monkeypatch.setenv(huge_pages.VARIABLE, setting)
        artifact = sparsec.compile(model, tune="off")
        assert (b"madvise" in artifact.library) == (setting == "")
        session = sparsec.InferenceSession(artifact)
        outputs[setting], = session.run(None, x)
        np.testing.assert_array_equal(session.run(None, x)[0], outputs[setting])
    np.testing.assert_array_equal(outputs[""], outputs["never"])
