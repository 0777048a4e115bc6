"""The dispatcher: one loop, a few small duties, no leader.

Any number of dispatchers may run. Each turn it claims what fits and starts it on an actor, ends attempts whose process
is gone or silent, keeps the warm workers, and tells the ledger how large the cluster is. It sleeps until woken,
at most a second. What fails in a turn is tried again in the next one; nothing it remembers is needed after a restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError
from ulid import ULID

from orchestrator import meters
from orchestrator.bus import Bus
from orchestrator.dispatch.admit import Admission
from orchestrator.dispatch.cluster import Cluster, RayAway
from orchestrator.dispatch.drain import Drain
from orchestrator.dispatch.follow import Follower
from orchestrator.dispatch.grow import Growth
from orchestrator.dispatch.reap import Reaper
from orchestrator.dispatch.schedule import Scheduler
from orchestrator.dispatch.sweep import Sweeper
from orchestrator.dispatch.warm import WarmPool
from orchestrator.dispatch.webhooks import Postman
from orchestrator.objects import OUTAGES, REFUSALS, Objects
from orchestrator.settings import Settings
from orchestrator.store import claims, migrate
from orchestrator.store.database import Database, is_outage

log = structlog.get_logger()

TURN_S = 1.0
ROOM_EVERY_S = 5.0
RECONNECT_EVERY_S = 0.9
ONE_MACHINE = (
    "no job is started: workers on another machine cannot reach an SQLite file; set STYLEFOUNDRY_DATABASE_URL to a "
    "PostgreSQL, or use a Ray of one node"
)


class Dispatcher:
    """Owns the loop's connections; `stop` may be called from a signal handler or another thread."""

    def __init__(self, settings: Settings, db: Database, bus: Bus, objects: Objects) -> None:
        self.owner = f"dispatcher-{ULID()}"
        self._settings = settings
        self._db = db
        self._bus = bus
        self._cluster = Cluster(settings)
        self._warm = WarmPool(self._cluster, settings)
        self._admission = Admission(self.owner, settings, db, bus, self._cluster, self._warm)
        self._reaper = Reaper(settings, db, bus, self._cluster, self._admission)
        self._drain = Drain(db, bus, self._cluster, self._warm)
        self._scheduler = Scheduler(settings, db, bus)
        self._follower = Follower(db, bus)
        self._growth = Growth(settings, db, self._cluster)
        self._sweeper = Sweeper(db, objects, audit_days=settings.audit_days)
        self._postman = Postman(settings, db)
        self._next_room = self._next_connect = 0.0
        self._checked = False
        self._stop = threading.Event()
        self._turned_at = time.monotonic()

    def run(self) -> None:
        """Turn after turn until `stop`."""
        log.info("dispatcher_started", owner=self.owner, ray=self._settings.ray_address)
        with self._bus.listening() as wake, self._postman.at_work():
            while not self._stop.is_set():
                self.turn()
                wake.wait(TURN_S)
        log.info("dispatcher_stopped", owner=self.owner)

    def stop(self) -> None:
        """End after the turn that is under way."""
        self._stop.set()

    def turn(self) -> None:
        """Every duty once. Each stands for itself: what keeps one from its work does not keep the others."""
        with meters.dispatcher.turn_seconds.time():
            self._turn()
        meters.dispatcher.ray_connected.set(self._cluster.connected)
        self._turned_at = time.monotonic()

    def idle_s(self) -> float:
        """Seconds since the last turn ended."""
        return time.monotonic() - self._turned_at

    def _turn(self) -> None:
        if not (self._checked or self._attempt("schema", self._check_schema)):
            return
        self._attempt("renew", self._admission.renew)
        self._attempt("follow", self._follower.follow)
        if self._attempt("connect", self._connect) and self._cluster.connected:
            self._attempt("admit", self._admission.admit)
            self._attempt("preempt", self._scheduler.make_room)
            self._attempt("room", self._measure_room)
            self._attempt("grow", self._growth.ask_when_due)
            self._attempt("warm", self._warm.keep)
            self._attempt("reap", self._reaper.look)
        self._attempt("expire", self._scheduler.expire)
        self._attempt("settle", self._scheduler.settle)
        self._attempt("watch", self._reaper.watch_leases)
        self._attempt("sweep", self._sweeper.sweep_when_due)

    def _attempt(self, duty: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except RayAway as error:
            meters.dispatcher.failures.labels(duty, "ray").inc()
            log.warning("ray_away", duty=duty, error=str(error))
            self._cluster.disconnect()
            self._warm.forget()
            self._admission.forget()
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            meters.dispatcher.failures.labels(duty, "sql").inc()
            log.warning("database_away", duty=duty, error=str(error.__cause__ or error).strip())
            self._reaper.interrupted()
        except (*OUTAGES, *REFUSALS) as error:
            meters.dispatcher.failures.labels(duty, "s3").inc()
            log.warning("object_store_away", duty=duty, error=str(error))
        else:
            return True
        return False

    def _check_schema(self) -> None:
        with self._db.read() as tx:
            migrate.check(tx.connection())
        self._checked = True

    def _connect(self) -> None:
        if not self._cluster.connected and time.monotonic() >= self._next_connect:
            self._next_connect = time.monotonic() + RECONNECT_EVERY_S
            self._cluster.connect()
            self._next_room = 0.0
            log.info("ray_connected", address=self._settings.ray_address)

    def _measure_room(self) -> None:
        if time.monotonic() < self._next_room:
            return
        self._next_room = time.monotonic() + ROOM_EVERY_S
        found = self._cluster.capacity()
        has_cpus, has_gpus = (sum(room[kind] for room in found.rooms.values()) for kind in (0, 1))
        cpus = self._settings.cpus if self._settings.cpus is not None else has_cpus
        gpus = self._settings.gpus if self._settings.gpus is not None else has_gpus
        nodes = found.rooms if len(found.rooms) > 1 and (cpus, gpus) == (has_cpus, has_gpus) else None
        if self._db.is_sqlite and found.nodes > 1:
            log.error("sqlite_serves_one_machine", nodes=found.nodes, advice=ONE_MACHINE)
            cpus, gpus, nodes = 0, 0, None
        with self._db.write() as tx:
            claims.set_room(tx, cpus=cpus, gpus=gpus, warm=self._warm.count(), nodes=nodes)
        self._admission.see(found.rooms)
        self._drain.clear(found.leaving)
