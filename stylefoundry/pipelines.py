"""Many jobs by one request: fan-outs, sweeps, one action on many jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from stylefoundry.reading import read
from stylefoundry.transport import Transport, segment
from stylefoundry.types import BatchItem, Fanout, Sweep


class Fanouts:
    """`client.fanouts`: train once, adapt to many styles."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def submit(
        self,
        adapt: Mapping[str, Any],
        style_images: Sequence[str] = ("*",),
        *,
        train: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Fanout:
        """One adaptation for each style, in one transaction.

        adapt: the body of a job without `style_image`. style_images: paths in its dataset `style`; `*` alone is all.
        train: the body of a job that is done first, and whose model the adaptations start from.
        """
        body = {"name": name, "train": train, "adapt": dict(adapt), "style_images": list(style_images)}
        return read(Fanout, self._http.create("/v1/fanouts", {k: v for k, v in body.items() if v is not None}))

    def list(self, limit: int = 50) -> list[Fanout]:
        """The newest, at most `limit`."""
        found = self._http.pages("/v1/fanouts", {"limit": min(limit, 200)})
        return [read(Fanout, item) for item in islice(found, limit)]

    def get(self, fanout_id: str) -> Fanout:
        return read(Fanout, self._http.get(f"/v1/fanouts/{segment(fanout_id)}"))

    def cancel(self, fanout_id: str) -> Fanout:
        """Cancel every job of it that has not ended."""
        return read(Fanout, self._http.post(f"/v1/fanouts/{segment(fanout_id)}/cancel"))


class Sweeps:
    """`client.sweeps`: many settings of one job."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def submit(self, job: Mapping[str, Any], space: Mapping[str, Any], **others: Any) -> Sweep:
        """Try settings.

        job: the body of a job, what all trials have in common. space: setting -> a list of values, or
        `{"low", "high", "log"}`. others: `strategy` (grid, random, asha), `trials`, `metric`, `mode`, `asha`, `seed`,
        `name`. What is None is left to the service's defaults.
        """
        body = {"job": dict(job), "space": dict(space), **others}
        return read(Sweep, self._http.create("/v1/sweeps", {k: v for k, v in body.items() if v is not None}))

    def list(self, limit: int = 50) -> list[Sweep]:
        """The newest, at most `limit`, without their trials."""
        found = self._http.pages("/v1/sweeps", {"limit": min(limit, 200)})
        return [read(Sweep, item) for item in islice(found, limit)]

    def get(self, sweep_id: str) -> Sweep:
        """With its trials."""
        return read(Sweep, self._http.get(f"/v1/sweeps/{segment(sweep_id)}"))

    def cancel(self, sweep_id: str) -> Sweep:
        """Cancel every job of it that has not ended; no trial goes on."""
        return read(Sweep, self._http.post(f"/v1/sweeps/{segment(sweep_id)}/cancel"))


def batch(http: Transport, action: str, filter: Mapping[str, Any], *, dry_run: bool) -> Iterator[BatchItem]:
    """What happens to each job, page by page until none is left."""
    body = {"action": action, "filter": dict(filter), "dry_run": dry_run}
    cursor: str | None = None
    while True:
        page = http.request("POST", "/v1/jobs:batch", json=body | {"cursor": cursor}).json()
        yield from (read(BatchItem, item) for item in page["data"])
        cursor = page["next_cursor"]
        if cursor is None:
            return
