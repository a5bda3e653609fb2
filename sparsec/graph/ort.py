"""Sessions of onnxruntime, the engine that outputs and times are compared with."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from sparsec.errors import InputError

CPU_PROVIDER = "CPUExecutionProvider"
_FATAL = 4  # what it logs below that, its exceptions say, too
_SPINNING = "session.intra_op.allow_spinning"
_EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"


def load() -> Any:
    """The package, which otherwise sends home what it is used for, and warns where it cannot keep an identifier."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def session(source: str | Path | bytes | onnx.ModelProto, threads: int = 0,
            providers: Sequence[str] = (CPU_PROVIDER,), *, optimized: bool = True, spinning: bool = True) -> Any:
    """A session in float32.

    A model of a newer IR version than onnxruntime knows gets the newest that it does know: versions differ in what a
    file may hold, and what onnxruntime cannot read it refuses all the same.

    Args:
        source: a path, the bytes of an ONNX file, or a ModelProto.
        threads: threads of one run; 0 lets onnxruntime decide.
        providers: where it runs, in order of preference.
        optimized: with onnxruntime's rewriting of the graph.
        spinning: threads wait busily for the next node, which is faster where nothing else runs, neither other programs
            nor other sessions.

    """
    onnxruntime = load()
    onnxruntime.set_default_logger_severity(_FATAL)
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spinning:
        options.add_session_config_entry(_SPINNING, "0")
    if threads:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    model = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
    try:
        return onnxruntime.InferenceSession(model, options, providers=[*providers])
    except Exception as error:
        known = re.search(r"max supported IR version: (\d+)", str(error))
        if known is None:
            raise
    data = model if isinstance(model, bytes) else Path(model).read_bytes()
    if not isinstance(model, bytes):
        options.add_session_config_entry(_EXTERNAL_DATA, str(Path(model).resolve().parent))
    proto = onnx.ModelProto.FromString(data)
    proto.ir_version = int(known[1])
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=[*providers])


def run(session: Any, names: Sequence[str], feeds: Mapping[str, np.ndarray], what: str) -> list[Any]:
    """The outputs of these names.

    Args:
        session: one of onnxruntime.
        names: of outputs.
        feeds: the inputs.
        what: the inputs are to people, such as "samples".

    Raises:
        InputError: the model cannot run on them; it says at which node.

    """
    try:
        return list(session.run(list(names), dict(feeds)))
    except Exception as error:  # onnxruntime's errors have no common base
        raise InputError(f"the model cannot run on the {what}, which onnxruntime stops at {reason(error)}; give {what} "
                         "of sizes and values that it takes") from error


def reason(error: Exception) -> str:
    """The node and the sentence of what onnxruntime raises, without its source's files and functions."""
    text = " ".join(str(error).split())
    node = re.search(r"Name:'([^']*)'", text)
    told = re.split(r"Status Message: |\] : \d+ : [A-Z_]+ : ", text)[-1]
    told = re.sub(r"^/\S+:\d+ .*?(?: was false\. |\) (?=[A-Z]))", "", told)
    return f"node '{node[1]}': {told}" if node else told
