"""Warm workers: actors that have done their imports and loaded an encoder before anybody asks.

They carry adaptations, ingests and stylisations. Their names hold the digest of the code, so those of an older version
are never used and are ended once they are idle.
"""

from __future__ import annotations

from typing import Any

import structlog

from orchestrator.code import code_digest
from orchestrator.dispatch.cluster import Cluster, Gone
from orchestrator.settings import Settings

log = structlog.get_logger()


class WarmPool:
    """Handles of the warm workers, made again when one is gone."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._names = [f"warm-{code_digest()[:12]}-{n}" for n in range(1, settings.warm_workers + 1)]
        self._handles: dict[str, Any] = {}
        self._starting: dict[Any, str] = {}  # reference of `ready` -> name

    def keep(self) -> None:
        """Start what is missing and note what has become ready. Raises RayAway."""
        for reference in self._cluster.over(list(self._starting)):
            name = self._starting.pop(reference)
            try:
                log.info("warm_worker_ready", name=name, **self._cluster.result(reference))
            except (Gone, RuntimeError) as error:
                log.error("warm_worker_failed", name=name, error=str(error))
                self._handles.pop(name, None)
        for name in self._names:
            if name not in self._handles:
                self._handles[name] = actor = self._cluster.start(name, warm=True, threads=1, gpus=0)
                self._starting[self._cluster.ready(actor)] = name

    def ready(self, busy: set[str]) -> str | None:
        """A ready worker that is not in `busy`; None when there is none."""
        warming = set(self._starting.values())
        return next((n for n in self._names if n in self._handles and n not in warming and n not in busy), None)

    def names(self) -> list[str]:
        """Of those that are there, or on their way."""
        return list(self._handles)

    def count(self) -> int:
        """How many are ready, busy or not."""
        return len(self._handles) - len(self._starting)

    def handle(self, name: str) -> Any | None:
        return self._handles.get(name)

    def lost(self, name: str) -> None:
        """The worker is gone or was ended: the next `keep` starts another one."""
        self._handles.pop(name, None)

    def forget(self) -> None:
        """The connection to Ray is gone, and all handles with it."""
        self._handles.clear()
        self._starting.clear()

    def is_outdated(self, name: str) -> bool:
        return name.startswith("warm-") and name not in self._names
