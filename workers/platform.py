"""What an attempt reaches the world through: settings, SQL, S3, Redis and the disk cache, opened once per process."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.bus import Bus
from orchestrator.objects import Objects
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from workers.cache import Cache


@dataclass(frozen=True)
class Platform:
    """Safe to share between threads, not across a fork."""

    settings: Settings
    db: Database
    objects: Objects
    bus: Bus
    cache: Cache

    @classmethod
    def open(cls, settings: Settings) -> Platform:
        """Connect to nothing yet: each part connects when it is used."""
        return cls(
            settings=settings,
            db=Database(settings.database_url, pool_size=4),
            objects=Objects(settings),
            bus=Bus(settings.redis_url.get_secret_value()),
            cache=Cache(settings.cache_dir, settings.cache_max_mib * 1024 * 1024),
        )

    def close(self) -> None:
        self.db.dispose()
