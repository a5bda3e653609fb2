"""The artifact: what is saved comes back, and what is damaged, foreign or hostile is refused by name."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsec.artifact.file import Artifact
from sparsec.backends.program import Program, TensorSpec
from sparsec.errors import ArtifactError
from sparsec.machine.memory import ALIGNMENT
from sparsec.target import machine_features, resolve
from tests.support.programs import signature_artifact

SMALL = Artifact.build(
    Program(b"library", "main", (np.arange(3, dtype=np.int16), np.ones((2, 2), np.float32)),
            (TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", ()),)),
    resolve("cpu-generic"), 1, b"graph", {"layers": []})

ARRAYS = hnp.arrays(st.sampled_from(["float32", "float16", "int8", "uint16", "int64", "bool"]),
                    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))


def with_manifest(**changes):
    """The small artifact's file, consistent in itself, with other fields in its manifest."""
    with zipfile.ZipFile(io.BytesIO(SMALL.to_bytes())) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["manifest.json"] = json.dumps(json.loads(contents["manifest.json"]) | changes).encode()
    return sealed(contents)


def sealed(contents):
    """A zip of the members with a valid digest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        archive.comment = b" " * 64
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def test_a_notebook_shows_the_layers_and_no_markup_of_theirs():
    shown = replace(SMALL, report={"layers": [{"layer": "<b>", "format": "csr"}] * 300})._repr_html_()
    assert shown.count("<tr>") == 201
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert "100 more layers" in shown


@given(st.lists(ARRAYS, max_size=4), st.lists(st.text(), max_size=3))
def test_what_is_saved_comes_back(tmp_path_factory, constants, names):
    specs = tuple(TensorSpec(name, "float32", (1, 2)) for name in names)
    program = Program(b"\x7fELF", "main", tuple(constants), specs, specs)
    artifact = Artifact.build(program, resolve("cpu"), 3, b"graph", {"layers": [{"bytes": 1}]})
    path = tmp_path_factory.mktemp("artifact") / "model.sparsec"
    artifact.save(path)
    loaded = Artifact.load(path)
    assert loaded == artifact
    assert all(c.offset % ALIGNMENT == 0 for c in loaded.manifest.constants)
    for original, restored in zip(constants, loaded.constants(), strict=True):
        assert original.dtype == restored.dtype
        np.testing.assert_array_equal(original, restored)


def test_equal_content_gives_equal_bytes():
    assert SMALL.to_bytes() == Artifact.load(SMALL.to_bytes()).to_bytes()


def test_every_flipped_byte_is_noticed():
    data = SMALL.to_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ArtifactError, match=r"damaged|(not|nor) a sparsec artifact"):
            Artifact.load(bytes(damaged))


@given(st.data())
def test_every_truncation_and_extension_is_noticed(data):
    content = SMALL.to_bytes()
    with pytest.raises(ArtifactError):
        Artifact.load(content[:data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ArtifactError):
        Artifact.load(content + data.draw(st.binary(min_size=1)))


@pytest.mark.parametrize(("changes", "message"), [
    ({"schema": 99}, "schema 99 .* compile the model again"),
    ({"sha256": {}}, "contradicts itself"),
    ({"constants": [{"dtype": "float32", "shape": [4], "offset": 0, "nbytes": 9999}]}, "constant 0"),
    ({"constants": [{"dtype": "float32", "shape": [4], "offset": 8, "nbytes": 16}]}, "constant 0"),
    ({"constants": [{"dtype": "float32", "shape": [-4], "offset": 0, "nbytes": -16}]}, "constant 0"),
    ({"constants": [{"dtype": "object", "shape": [1], "offset": 0, "nbytes": 8}]}, "constant 0"),
    ({"constants": [{"dtype": "float32", "shape": [1], "offset": 0, "nbytes": 4, "encoding": "?"}]}, "constant 0"),
    ({"constants": None}, "contradicts itself"),
    ({"inputs": [{}]}, "contradicts itself"),
    ({"objects": [3, 3]}, "object files"),
    ({"objects": [-1, 8]}, "object files"),
    ({"target": "cuda-sm80", "needs": {"archs": ["sm_banana"]}}, "an architecture"),
    ({"target": "cuda-sm80", "needs": {"ptx": ["13"]}}, "a version of CUDA"),
    ({"needs": {"archs": ["sm_80"]}}, "needs archs, which no program for a cpu"),
    ({"archs": ["sm_80"]}, "unknown fields 'archs'"),
    ({"surprise": 1}, "contradicts itself"),
])
def test_a_manifest_that_lies_is_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        Artifact.load(with_manifest(**changes))


@pytest.mark.parametrize(("fields", "needs"), [
    ({"archs": [], "ptx": []}, {}),
    ({"target": "cuda-sm80", "archs": ["sm_80"], "ptx": [13, 0]}, {"archs": ("sm_80",), "ptx": (13, 0)}),
    ({"target": "cuda-sm80"}, {"archs": ("sm_80",), "ptx": ()}),
])
def test_an_artifact_of_the_schema_before_is_read(fields, needs):
    artifact = Artifact.load(with_manifest(schema=2, **fields))
    assert artifact.manifest.needs == Artifact.load(artifact.to_bytes()).manifest.needs == needs


@pytest.mark.parametrize("contents", [
    {"../evil": b""},
    {"manifest.json": b"{}"},
    {"manifest.json": b"{}", "library.bin": bytes(10**7), "weights.bin": b"", "graph.onnx": b"", "report.json": b"{}"},
    {"manifest.json": b"[" * 10**5, "library.bin": b"", "weights.bin": b"", "graph.onnx": b"", "report.json": b"{}"},
], ids=["traversal", "missing members", "bomb", "nesting"])
def test_a_hostile_zip_is_refused(contents):
    with pytest.raises(ArtifactError):
        Artifact.load(sealed(contents))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x08\x07onnx", bytes(1000)])
def test_another_file_is_refused_with_the_way_out(content):
    with pytest.raises(ArtifactError, match="compile"):
        Artifact.load(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"nothing\.sparsec: No such file"):
        Artifact.load(tmp_path / "nothing.sparsec")


@pytest.mark.parametrize(("field", "value", "message"), [
    ("features", ("avx1024",), "lacks avx1024; compile"),
    ("platform", "plan9-mips", "plan9-mips .* compile"),
    ("tvm", "9.1.0", r"install apache-tvm==9\.1\.0"),
])
def test_another_machine_is_refused_with_the_way_out(field, value, message):
    artifact = replace(SMALL, manifest=replace(SMALL.manifest, **{field: value}))
    with pytest.raises(ArtifactError, match=message):
        artifact.check_machine()


def test_the_features_of_the_target_are_required():
    assert set(signature_artifact("cpu").manifest.features) <= machine_features()
    empty = Program(b"", "main", (), (), ())
    assert "avx2" in Artifact.build(empty, resolve("cpu-avx2"), 1, b"", {}).manifest.features


def test_no_space_left_keeps_the_old_file(tmp_path):
    path = tmp_path / "model.sparsec"
    SMALL.save(path)
    before = path.read_bytes()
    code = f"""
import resource
from sparsec import Artifact
from sparsec.errors import ArtifactError
artifact = Artifact.load({str(path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
try:
    artifact.save({str(path)!r})
except ArtifactError as error:
    print(error)
"""
    message = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert message.count("\n") == 1
    assert "cannot write" in message
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        SMALL.save(tmp_path / "nowhere" / "model.sparsec")
