"""The sessions of an artifact's buckets: which shapes of inputs each takes, opened when they first come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from sparsec.artifact.file import Artifact
from sparsec.errors import InputError
from sparsec.runtime.engines import gate
from sparsec.runtime.feeds import refuse_names
from sparsec.runtime.signature import named, shapes_of

Shapes = tuple[tuple[int, ...], ...]
"""Of the inputs, in order."""


class Closing(Protocol):
    """What a session is to its buckets."""

    def close(self) -> None:
        """Give back what it holds."""


Session = TypeVar("Session", bound=Closing)


class Buckets(Generic[Session]):
    """The buckets beside an artifact's own.

    Args:
        artifact: which may have none.
        opened: the session of a bucket.

    Attributes:
        artifacts: all buckets by the shapes of their inputs, the artifact's own among them; empty where it has none.

    """

    def __init__(self, artifact: Artifact, opened: Callable[[Artifact], Session]) -> None:
        self.artifacts = {shapes_of(bucket): bucket for bucket in artifact.buckets} if artifact.others else {}
        self._own, self._inputs, self._opened = shapes_of(artifact), artifact.manifest.inputs, opened
        self.sessions: dict[Shapes, Session] = {}

    def session(self, shapes: Shapes, feeds: Mapping[str, Any]) -> Session | None:
        """The session for these shapes of inputs, None where that is the artifact's own.

        Raises:
            InputError: an input is missing, or no bucket has the shapes.

        """
        if shapes == self._own or not self.artifacts:
            return None
        if shapes not in self.sessions:
            if len(shapes) < len(self._inputs):
                refuse_names(feeds, self._inputs)
            if shapes not in self.artifacts:
                raise InputError(f"no bucket of the artifact takes {named(shapes, self._inputs)}; its buckets are "
                                 + "; ".join(named(each, self._inputs) for each in self.artifacts))
            with gate:
                if shapes not in self.sessions:
                    self.sessions[shapes] = self._opened(self.artifacts[shapes])
        return self.sessions[shapes]

    def close(self) -> None:
        """Close the sessions that were opened."""
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()
