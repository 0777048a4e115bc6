"""What keeps a service in order: keys that change their secret, webhooks, storage, the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from stylefoundry.reading import read
from stylefoundry.transport import Transport, segment
from stylefoundry.types import Key


@dataclass(frozen=True)
class StoredBytes:
    pictures: int
    datasets: int
    checkpoints: int
    models: int
    total: int


@dataclass(frozen=True)
class Usage:
    tenant: str
    bytes: StoredBytes
    max_bytes: int | None = None  # None: no limit


@dataclass(frozen=True)
class Delivery:
    """A change of a job's status that a webhook is told."""

    id: str
    job_id: str
    event: str  # job.succeeded, …
    url: str
    status: str  # pending, delivered, dead
    tries: int
    created_at: datetime
    answer: int | None = None  # status of the last answer
    error: str | None = None
    next_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class AuditEntry:
    """A request that changed something, or was refused to."""

    id: str
    at: datetime
    tenant: str
    key: str
    verb: str
    route: str
    resource: str
    status: int
    made: str | None = None
    ip: str | None = None


class Administration:
    """`client.admin`."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def current_key(self) -> Key:
        """The key that this client uses."""
        return read(Key, self._http.get("/v1/keys/current"))

    def rotate_key(self, key_id: str, *, overlap_s: int | None = None) -> Key:
        """A new secret, in full only in this answer. overlap_s: so long counts the old one; default a day."""
        body = {} if overlap_s is None else {"overlap_s": overlap_s}
        return read(Key, self._http.create(f"/v1/keys/{segment(key_id)}/rotate", body))

    def usage(self) -> Usage:
        """What this key's tenant stores."""
        return read(Usage, self._http.get("/v1/usage"))

    def webhook_secret(self, *, overlap_s: int | None = None) -> str:
        """A new secret, shown once; those before it sign along for `overlap_s` seconds, a day where nothing is said."""
        body = {} if overlap_s is None else {"overlap_s": overlap_s}
        secret: str = self._http.create("/v1/webhooks/secret", body)["secret"]
        return secret

    def deliveries(self, *, status: str | None = None, job: str | None = None, limit: int = 50) -> list[Delivery]:
        """The newest, at most `limit`. status: `pending`, `delivered` or `dead`. job: an id."""
        params = {"status": status, "job": job, "limit": min(limit, 200)}
        return [read(Delivery, item) for item in islice(self._http.pages("/v1/webhooks/deliveries", params), limit)]

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send it once more, under the same id."""
        return read(Delivery, self._http.post(f"/v1/webhooks/deliveries/{segment(delivery_id)}/redeliver"))

    def audit(self, *, limit: int = 50, **filters: Any) -> list[AuditEntry]:
        """The newest entries, at most `limit`. filters: `tenant` (a name), `key`, `resource`."""
        params = {"limit": min(limit, 200), **filters}
        return [read(AuditEntry, item) for item in islice(self._http.pages("/v1/audit", params), limit)]
