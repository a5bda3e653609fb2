"""The models of `sparsec serve` on Ray Serve: replicas on the machines of a cluster, which a `serve` config asks for.

A config names `application` as its `import_path` and the fields of `Options` as its `args`. Replicas, autoscaling and
restarts are Ray's; each replica asks for as many cores as its runs keep busy, so that no machine has more than it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sparsec.errors import UsageError
from sparsec.machine.optional import needed
from sparsec.serving.batching import Limits


@dataclass(frozen=True)
class Options:
    """What `args` of a config say; `sparsec serve` has all but the first by the same names.

    Attributes:
        models: paths of artifacts by the models' names, the same on every machine.
        threads: of a run.
        max_batch: rows of a run, of several requests together.
        max_delay: milliseconds that a request waits for others.
        queue: requests of a model that may wait in a replica.
        max_request: megabytes of a request.

    """

    models: Mapping[str, str]
    threads: int = 1
    max_batch: int = 32
    max_delay: float = 0.0
    queue: int = 256
    max_request: float = 64.0

    @property
    def cores(self) -> int:
        """What the runs of a replica keep busy at most."""
        return self.threads * len(self.models)

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> Options:
        """Those of a config.

        Raises:
            UsageError: a name that is none, or no models.

        """
        known = [each.name for each in fields(cls)]
        if unknown := [name for name in args if name not in known]:
            raise UsageError(f"args of the config: '{unknown[0]}' is unknown; choose from {', '.join(known)}")
        if not args.get("models"):
            raise UsageError("args of the config: give models, paths of artifacts by names")
        return cls(**args)


class Models:
    """A replica: kserve's REST over sessions and queues of its own, as `sparsec serve` has it."""

    def __init__(self, options: Options) -> None:
        from sparsec.serving.opening import opened
        from sparsec.serving.served import ServedModel, kserve

        self._options, self._models = options, kserve.ModelRepository()
        limits = Limits(options.max_batch, options.max_delay / 1e3, options.queue)
        for name, path in options.models.items():
            session, own, _ = opened(Path(path), options.threads, limits)
            self._models.update(ServedModel(name, session, own))

    def __serve_build_asgi_app__(self) -> Any:
        """The application that answers this replica's requests."""
        from sparsec.serving.drain import Draining
        from sparsec.serving.server import rest_application

        return rest_application(self._models, Draining(), int(self._options.max_request * 1e6))


def application(args: dict[str, Any]) -> Any:
    """What a `serve` config imports.

    Args:
        args: fields of `Options`.

    Raises:
        UsageError: as `Options.of`.
        ToolchainError: Ray is not installed.

    """
    options = Options.of(args)
    serve = needed("ray.serve", "ray[serve]", "serving on a cluster")
    deployment = serve.deployment(ray_actor_options={"num_cpus": options.cores},
                                  max_ongoing_requests=options.queue * len(options.models))
    return deployment(serve.ingress()(Models)).bind(options)
