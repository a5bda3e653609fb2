"""Malformed artifacts: name -> (the file, what the error must say)."""

import hashlib
import json
import random
import zipfile

from sparsec.compiler.buckets import merge
from tests.hostile.artifacts import members, sealed, small_artifact, stored_artifact


def lying(**changes):
    """An artifact that is consistent in itself, with other fields in its manifest."""
    contents = members(small_artifact())
    return sealed({**contents, "manifest.json": json.dumps(json.loads(contents["manifest.json"]) | changes).encode()})


def constant(**changes):
    fields = {"dtype": "float32", "shape": [4], "offset": 0, "nbytes": 16, "encoding": "raw"}
    return lying(constants=[{**fields, **changes}])


def with_member(name, data):
    return sealed({**members(small_artifact()), name: data})


def with_report(data):
    """An artifact with another report, whose hash is right."""
    contents = members(small_artifact())
    manifest = json.loads(contents["manifest.json"])
    manifest["sha256"]["report.json"] = hashlib.sha256(data).hexdigest()
    return sealed({**contents, "report.json": data, "manifest.json": json.dumps(manifest).encode()})


def stored(change, **fields):
    """An artifact whose stored weight is changed in place, in its manifest."""
    contents = members(stored_artifact())
    manifest = json.loads(contents["manifest.json"])
    change(manifest["stored"][0])
    return sealed({**contents, "manifest.json": json.dumps(manifest | fields).encode()})


def parameter(**changes):
    return stored(lambda each: each["parameters"].update(changes))


def stream(number=0, **changes):
    return stored(lambda each: each["streams"][number].update(changes))


def compressed(method):
    """An artifact whose members are compressed in another way."""
    return sealed(members(small_artifact()), method)


WHOLE = small_artifact().to_bytes()
PAIR = merge([small_artifact(), small_artifact()])
SPEC = {"name": "x", "dtype": "float32", "shape": [1]}
ANSI = "cpu\x1b[2J\nsigned by everybody"
ARTIFACTS = {
    "empty": (b"", "is not a sparsec artifact"),
    "an ONNX model": (b"\x08\x08:\x00", "is not a sparsec artifact"),
    "cut": (WHOLE[:-1], "is damaged"),
    "longer": (WHOLE + b"\0", "is damaged"),
    "flipped": (WHOLE[:99] + bytes([WHOLE[99] ^ 1]) + WHOLE[100:], "is damaged"),
    "a path above": (sealed({"../evil": b""}), "is a zip file and neither an ONNX model nor a"),
    "an absolute path": (sealed({"/tmp/evil": b""}), "is a zip file and neither an ONNX model nor a"),
    "one member more": (with_member("extra", b""), "is damaged"),
    "no members": (sealed({}), "is a zip file and neither an ONNX model nor a"),
    "a bomb": (with_member("report.json", bytes(1 << 24)), "is damaged"),
    "a manifest that is no JSON": (with_member("manifest.json", b"{"), "contradicts itself"),
    "a manifest of deep nesting": (with_member("manifest.json", b"[" * 10**5), "is damaged|contradicts itself"),
    "a manifest that is a list": (with_member("manifest.json", b"[]"), "contradicts itself"),
    "a library of another hash": (with_member("library.bin", b"evil"), "contradicts itself.*library"),
    "schema of the future": (lying(schema=99), "schema 99.*compile the model again"),
    "no hashes": (lying(sha256={}), "contradicts itself"),
    "a constant behind the end": (constant(offset=1 << 40), "constant 0"),
    "a constant before the start": (constant(offset=-64), "constant 0"),
    "an unaligned constant": (constant(offset=8), "constant 0"),
    "a constant of another length": (constant(shape=[5]), "constant 0"),
    "a constant of objects": (constant(dtype="object", shape=[2]), "constant 0"),
    "a constant of no type": (constant(dtype="float33"), "contradicts itself"),
    "a constant of negative size": (constant(shape=[-2, -2]), "constant 0"),
    "an unknown encoding": (constant(encoding="pickle"), "constant 0"),
    "objects that are not the library": (lying(objects=[10**9]), "object files"),
    "infinitely many threads": (lying(threads=float("inf")), "contradicts itself"),
    "no threads": (lying(threads=0), "contradicts itself"),
    "a nameless input": (lying(inputs=[{**SPEC, "name": 7}]), "contradicts itself"),
    "an input of objects": (lying(inputs=[{**SPEC, "dtype": "O"}]), "contradicts itself"),
    "an input of negative size": (lying(inputs=[{**SPEC, "shape": [-1]}]), "contradicts itself"),
    "an entry that is no text": (lying(entry=None), "contradicts itself"),
    "an unknown field": (lying(surprise=1), "contradicts itself"),
    "half a bucket": (with_member("1/manifest.json", b"{}"), "is damaged"),
    "a bucket of another library": (sealed({**members(PAIR), "1/library.bin": b"evil"}),
                                    "contradicts itself.*1/library"),
    "buckets of other inputs": (sealed({**members(PAIR), "1/manifest.json": json.dumps(
        json.loads(members(PAIR)["1/manifest.json"]) | {"inputs": []}).encode()}), "differ in more than sizes"),
    "a bucket that is no JSON": (sealed({**members(PAIR), "1/manifest.json": b"{"}), "contradicts itself"),
    "a bzip2 member": (compressed(zipfile.ZIP_BZIP2), "is damaged"),
    "an lzma member": (compressed(zipfile.ZIP_LZMA), "is damaged"),
    "a report of nested lists": (with_member("report.json", b"[" * 10**5 + b"]" * 10**5), "contradicts|is damaged"),
    "a report larger than any": (with_member("report.json", json.dumps(random.Random(0).choices(
        ("a", "bb", "ccc", "d"), k=1_700_000)).encode()), "manifest and report take over"),
    "a report that is null": (with_report(b"null"), "its report is not a JSON object"),
    "a target that rewrites the screen": (lying(target=ANSI), "which this version of sparsec does not know"),
    "a platform that rewrites the screen": (lying(platform=ANSI), "platform is"),
    "a version of two lines": (lying(tvm="0.27\nsigned"), "tvm is"),
    "a feature that rewrites the screen": (lying(features=[ANSI]), "processor feature is"),
    "an entry that is no name": (lying(entry="main; rm"), "entry is"),
    "an architecture that there is not": (
        lying(target="cuda-sm80", needs={"archs": ["sm_9\x1b"]}), "an architecture is"),
    "a target that there is not": (lying(target="tpu"), "does not know"),
    "a portable artifact with a library": (lying(target="portable"), "portable artifact holds native code"),
    "a million threads": (lying(threads=10**6), "1000000 threads"),
    "threads in words": (lying(threads="2"), "contradicts itself"),
    "half a thread": (lying(threads=1.5), "contradicts itself"),
    "truth for threads": (lying(threads=True), "contradicts itself"),
    "more threads than 64 bits": (lying(threads=10**30), "contradicts itself"),
    "no parts": (lying(parts=0), "do not divide into 0 parts"),
    "an input of a tebibyte": (lying(inputs=[{**SPEC, "shape": [1 << 40]}]), "an impossible shape"),
    "an input of a module's name": (lying(inputs=[{**SPEC, "dtype": "finfo"}]), "an unknown element type"),
    "an input of texts": (lying(inputs=[{**SPEC, "dtype": "str"}]), "an unknown element type"),
    "inputs that are null": (lying(inputs=None), "contradicts itself"),
    "constants again and again": (lying(constants=[
        {"dtype": "float32", "shape": [1 << 20], "offset": 0, "nbytes": 0, "encoding": "packed"}] * 100), "take over"),
    "a packed constant of a tebibyte": (constant(encoding="packed", shape=[1 << 38], nbytes=0), "take over"),
    "a stored format that there is not": (stored(lambda each: each.update(format="pickle")), "that there is not"),
    "a stored codec that there is not": (stored(lambda each: each.update(codec="pickle")), "that there is not"),
    "a recipe that there is not": (stored(lambda each: each.update(recipe="Recipe")), "that there is not"),
    "a stored weight of no size": (stored(lambda each: each.update(shape=[0, 8])), "has the shape"),
    "a stored weight of negative size": (stored(lambda each: each.update(shape=[-1, 8])), "has the shape"),
    "a stored weight of three dimensions": (stored(lambda each: each.update(shape=[2, 2, 2])), "has the shape"),
    "a stored weight of terabytes": (stored(lambda each: each.update(shape=[1 << 20, 1 << 20])), "bytes of memory"),
    "a stored weight of other constants": (stored(lambda each: each.update(constants=[99])), "does not list as packed"),
    "a recipe with a parameter more": (parameter(surprise=1), "unknown parameters"),
    "a recipe with a text for a number": (parameter(height="8"), "contradicts itself"),
    "a recipe of no height": (parameter(height=0), "height is 0"),
    "a recipe of negative height": (parameter(height=-8), "height is -8"),
    "a recipe of a terabyte's height": (parameter(height=1 << 24), "bytes of memory"),
    "a recipe of no width": (parameter(width=0), "width is 0"),
    "a recipe of an unknown codec": (parameter(codec="pickle"), "codec is"),
    "a stream of 65 bits": (stream(bits=65), "does not fit the weights"),
    "a stream of negative bits": (stream(bits=-1), "does not fit the weights"),
    "a stream of 2^40 symbols of no bits": (stream(bits=0, count=1 << 40, nbytes=0), "does not fit the weights"),
    "a stream of too many symbols": (stream(count=1 << 40), "does not fit the weights"),
    "a stream of an unknown coding": (stream(coding="lzma"), "does not fit the weights"),
    "a coded stream without a header": (stream(coding="huffman", bits=8), "does not fit the weights"),
    "a stream behind the end": (stream(offset=1 << 40), "does not fit the weights"),
}
