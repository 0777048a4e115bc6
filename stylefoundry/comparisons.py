"""Several models on the same pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import httpx2

from stylefoundry.errors import Error
from stylefoundry.reading import read
from stylefoundry.transport import Transport, segment
from stylefoundry.types import Comparison

LOOK_S = 1.0


class Comparisons:
    """`client.comparisons`: a sheet to look at and a table, all drawn by one worker."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def submit(
        self,
        models: Sequence[str | Mapping[str, Any]],
        content: tuple[str, Sequence[str]],
        style: tuple[str, Sequence[str]],
        **others: Any,
    ) -> Comparison:
        """Queue a comparison.

        models: references as `starry@3`, or `{"model" or "method", "name", "controls", "note"}`. content, style: a
        dataset and paths in it. others: `name`, `size`, `encoder`, `cpus`, `priority`.
        """
        given = [{"model": model} if isinstance(model, str) else dict(model) for model in models]
        pictures = {
            role: {"dataset": dataset, "paths": list(paths)}
            for role, (dataset, paths) in (("content", content), ("style", style))
        }
        body = {"models": given, **pictures, **others}
        return read(Comparison, self._http.create("/v1/comparisons", {k: v for k, v in body.items() if v is not None}))

    def list(self, limit: int = 50) -> list[Comparison]:
        """The newest, at most `limit`."""
        found = self._http.pages("/v1/comparisons", {"limit": min(limit, 200)})
        return [read(Comparison, item) for item in islice(found, limit)]

    def get(self, comparison_id: str) -> Comparison:
        return read(Comparison, self._http.get(_place(comparison_id)))

    def cancel(self, comparison_id: str) -> Comparison:
        return read(Comparison, self._http.post(f"{_place(comparison_id)}/cancel"))

    def delete(self, comparison_id: str) -> None:
        self._http.request("DELETE", _place(comparison_id))

    def wait(
        self, comparison_id: str, *, progress: Callable[[Comparison], None] = lambda comparison: None
    ) -> Comparison:
        """Block until it has ended. Raises Error unless it succeeded. progress: told what is known, once a second."""
        while (comparison := self.get(comparison_id)).phase != "terminal":
            progress(comparison)
            time.sleep(LOOK_S)
        progress(comparison)
        if comparison.status != "succeeded":
            why = "" if comparison.error is None else f": {comparison.error.message}"
            raise Error(f"{comparison_id} {comparison.status}{why}")
        return comparison

    def sheet(self, comparison_id: str) -> bytes:
        """All pictures on one page, a JPEG. Raises Error as long as there is none."""
        url = self.get(comparison_id).sheet
        if url is None:
            raise Error(f"{comparison_id} has no sheet yet")
        answer = httpx2.get(url, timeout=httpx2.Timeout(120, connect=5))
        answer.raise_for_status()
        return answer.content


def _place(comparison_id: str) -> str:
    return f"/v1/comparisons/{segment(comparison_id)}"
