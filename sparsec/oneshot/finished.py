"""Layers that are finished, kept in a folder, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from sparsec import files
from sparsec.errors import UsageError
from sparsec.graph.compare import Feeds


@dataclass(frozen=True)
class Finished:
    """Pruned weights as matrices (groups, outputs, inputs), a file each, by all that they follow from."""

    folder: Path
    digest: str

    @classmethod
    def of(cls, folder: Path, model: onnx.ModelProto, batches: Sequence[Feeds], sparsities: Mapping[str, float],
           method: str) -> Finished:
        """Those of a run; `method` says in words how it prunes.

        Raises:
            UsageError: there is no such folder.

        """
        if not folder.is_dir():
            raise UsageError(f"--resume {folder}: there is no such folder; make it first")
        digest = hashlib.sha256(model.SerializeToString(deterministic=True))
        for batch in batches:
            for name, array in sorted(batch.items()):
                digest.update(name.encode() + array.tobytes())
        digest.update(f"{sorted(sparsities.items())} {method}".encode())
        return cls(folder, digest.hexdigest())

    def get(self, weight: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The matrix of a weight, None where it is not finished.

        Raises:
            UsageError: its file is damaged.

        """
        path = self._path(weight)
        if not path.exists():
            return None
        try:
            matrix = np.load(io.BytesIO(files.read_regular(path)), allow_pickle=False)
        except Exception as error:  # whatever numpy raises on a damaged file
            raise UsageError(f"{path}: damaged ({error}); delete it") from error
        if matrix.shape != shape or matrix.dtype != np.float32:
            raise UsageError(f"{path}: holds no float32 matrix of shape {shape}; delete it")
        return np.asarray(matrix)

    def put(self, weight: str, matrix: np.ndarray) -> None:
        """Keep a matrix. Raises OSError where it cannot be written."""
        held = io.BytesIO()
        np.save(held, matrix, allow_pickle=False)
        files.write(self._path(weight), held.getvalue())

    def _path(self, weight: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{self.digest} {weight}'.encode()).hexdigest()[:32]}.npy"
