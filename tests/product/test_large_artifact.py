"""Large artifacts: weights are mapped and not read when the file is opened, whatever its size; zip64."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sparsec.artifact import container
from sparsec.artifact.file import Artifact
from sparsec.artifact.weights import Layout, Weights
from sparsec.backends.program import Program, TensorSpec
from sparsec.errors import ArtifactError
from sparsec.machine.memory import ALIGNMENT
from sparsec.target import resolve

SPECS = (TensorSpec("x", "float32", (1,)),)
ARRAYS = np.arange(1000, dtype=np.int16), np.linspace(0, 1, 4096, dtype=np.float32), np.zeros(0, np.int8)


def artifact_of(*arrays):
    return Artifact.build(Program(b"library", "main", arrays, SPECS, SPECS), resolve("cpu-generic"), 1, b"graph",
                          {"layers": []})


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """The file of an artifact that counts as large."""
    monkeypatch.setattr(container, "MAPPED_BYTES", 0)
    artifact_of(*ARRAYS).save(tmp_path / "m.sparsec")
    return tmp_path / "m.sparsec"


def weights_at(path):
    """Where the weights begin in a file, and their size."""
    contents = container.read(str(path), path.read_bytes())
    return path.read_bytes().index(bytes(contents.weights.part(0, 2048))), len(contents.weights)


def test_mapped_weights_are_those_that_were_saved_aligned_and_writable(mapped):
    found = Artifact.load(mapped)
    assert found == artifact_of(*ARRAYS)
    for array, expected in zip(found.constants(), ARRAYS, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert not array.size or (array.flags.writeable and array.ctypes.data % ALIGNMENT == 0)


def test_damaged_weights_are_found_by_reading_all_and_everything_else_at_once(mapped):
    data, (start, size) = mapped.read_bytes(), weights_at(mapped)
    for position in [*range(0, start, 7), start + 5, *range(start + size, len(data), 7)]:
        mapped.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1:])
        with pytest.raises(ArtifactError):
            Artifact.load(mapped, whole=True)
        try:
            found = Artifact.load(mapped)
        except ArtifactError:
            continue
        assert found.manifest == artifact_of(*ARRAYS).manifest  # a byte that says nothing of the content
        assert found.library == b"library"


def test_a_file_that_is_cut_off_is_refused(mapped):
    data = mapped.read_bytes()
    for end in (1, 50, len(data) // 2, len(data) - 1):
        mapped.write_bytes(data[:end])
        with pytest.raises(ArtifactError):
            Artifact.load(mapped)


def test_weights_beyond_4_gb_are_zip64(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    plain = artifact_of(*ARRAYS)
    plain.save(tmp_path / "m.sparsec")
    monkeypatch.undo()
    monkeypatch.setattr(container, "MAPPED_BYTES", 0)
    assert Artifact.load(tmp_path / "m.sparsec", whole=True) == plain
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in Artifact.load(tmp_path / "m.sparsec").constants()
               if array.size)


@pytest.mark.skipif(not os.environ.get("SPARSEC_LONG"), reason="writes 5 GB")
def test_an_artifact_of_5_gb(tmp_path):
    hole = np.memmap(tmp_path / "hole", np.uint8, "w+", shape=(5 << 30,))
    artifact_of(hole, *ARRAYS).save(tmp_path / "m.sparsec")
    np.testing.assert_array_equal(Artifact.load(tmp_path / "m.sparsec").constants()[2], ARRAYS[1])


def test_opening_reads_none_of_the_weights(tmp_path):
    artifact_of(np.ones(24 << 20, np.float32)).save(tmp_path / "m.sparsec")
    code = ("import resource, sys; from sparsec.artifact.file import Artifact\n"
            "import sparsec.backends.cpu.backend, sparsec.backends.registry\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "arrays = Artifact.load(sys.argv[1]).constants()\n"
            "print(arrays[0][-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "m.sparsec"], capture_output=True, text=True,
                          check=True)
    last, grown = done.stdout.split()
    assert float(last) == 1
    assert int(grown) < 16 << 10  # kilobytes, of 96 MB


def test_the_pieces_of_weights_are_one_after_the_other(monkeypatch):
    monkeypatch.setattr("sparsec.artifact.weights.CHUNK", 100)
    layout = Layout()
    offsets = [layout.append(array) for array in ARRAYS]
    weights = layout.weights()
    whole = b"".join(weights.chunks())
    assert len(whole) == len(weights)
    assert Weights.of(whole) == weights
    for offset, array in zip(offsets, ARRAYS, strict=True):
        assert bytes(weights.part(offset, array.nbytes)) == array.tobytes()
    assert bytes(weights.part(10, 9000)) == whole[10:9010]
