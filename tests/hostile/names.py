"""Models whose every name commands the terminal or the browser, through every command that prints them."""

import contextlib
import io
import json
import os
import sys

import numpy as np
import onnx

from sparsec import cli
from sparsec.errors import SparsecError
from tests.hostile.mutate import NAMES
from tests.support.graphs import GRAPHS

MARKUP = ["<script>alert(1)</script>", "</td><img src=x onerror=alert(1)>", "[bold]", "\\x1b", "{{7*7}}", "$(id)",
          "../../x", "x" * 5000, "\u2028", "\ufeff", "a\tb", "\x07", "\x7f", "\u2066"]
TEXTS = [*NAMES, *MARKUP]
SOURCES = ("residual block", "attention one projection, split", "norm pow, div", "batch norm behind gemm")
COMMANDS = (["inspect", "m.onnx"], ["explain", "m.onnx", "--html", "m.html", "--json", "m.json"],
            ["compile", "m.onnx", "-o", "m.sparsec", "--tune", "off", "--json", "c.json"],
            ["inspect", "m.sparsec", "--json", "i.json"], ["verify", "m.sparsec"], ["run", "m.sparsec", "-o", "y.npz"],
            ["run", "m.sparsec", "-i", "y.npz"], ["strip", "m.onnx", "-o", "s.onnx"], ["simulate", "m.onnx"],
            ["compile", "m.onnx", "--shape", "z:1", "-o", "m.sparsec"], ["compile", "broken.onnx"])


def seeds():
    """Small models of layers of every kind."""
    return [GRAPHS[name] for name in SOURCES]


def mutant(rng, models):
    """A model with other names, as they are found in most places of files, and one name that is used and not made."""
    proto = onnx.ModelProto()
    proto.CopyFrom(rng.choice(models))
    again = {}

    def other(name):
        if name and name not in again:
            text = rng.choice(TEXTS)
            again[name] = f"{text}{len(again)}"
        return again.get(name, name)

    for node in proto.graph.node:
        node.name = other(node.name or f"n{len(again)}")
        node.doc_string = rng.choice(TEXTS)
        node.input[:] = map(other, node.input)
        node.output[:] = map(other, node.output)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        value.name = other(value.name)
    proto.producer_name = proto.domain = proto.doc_string = proto.graph.name = rng.choice(TEXTS)
    proto.metadata_props.add(key=rng.choice(TEXTS), value=rng.choice(TEXTS))
    if rng.random() < 0.2:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = rng.choice(TEXTS)
    return proto.SerializeToString()


def broken(rng_text, data):
    """The model with an operator, and a domain, of that name."""
    proto = onnx.load_from_string(data)
    proto.graph.node[-1].op_type = rng_text
    proto.graph.node[-1].domain = rng_text
    proto.opset_import.add(domain=rng_text, version=1)
    return proto.SerializeToString()


def read(path):
    """Every command on the file; an AssertionError unless what it prints and writes is text and nothing more."""
    data = path.read_bytes()
    os.chdir(path.parent)
    for name in ("m.onnx", "m.html", "m.json", "c.json", "i.json", "m.sparsec", "y.npz", "s.onnx"):
        path.with_name(name).unlink(missing_ok=True)
    path.with_name("m.onnx").write_bytes(data)
    path.with_name("broken.onnx").write_bytes(broken(TEXTS[len(data) % len(TEXTS)], data))
    for command in COMMANDS:
        if command[1] == "m.sparsec" and not path.with_name("m.sparsec").exists():
            continue
        text, code = call(command)
        assert code in (0, 1, 2), (command, code, text)
        lines = text.split("\n")
        assert all(line.isprintable() for line in lines), (command, [x for x in lines if not x.isprintable()])
        if code:
            assert text.strip(), command
    page = path.with_name("m.html")
    written = page.read_text() if page.exists() else ""
    assert "<script>alert" not in written
    assert "<img src=x" not in written
    for name in ("m.json", "c.json", "i.json"):
        if path.with_name(name).exists():
            json.loads(path.with_name(name).read_text())
    if path.with_name("y.npz").exists():
        with np.load(path.with_name("y.npz")) as arrays:
            assert arrays.files


def call(command):
    """What a command prints on both streams, and its exit code."""
    arguments, sys.argv = sys.argv, ["sparsec", *command]
    printed, code = io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            cli.main()
    except SystemExit as done:
        code = done.code or 0
    except SparsecError as error:
        raise AssertionError(command) from error
    finally:
        sys.argv = arguments
    return printed.getvalue(), code
