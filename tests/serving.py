"""API and worker in threads: a whole service in the test's process, on real servers, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from orchestrator.api.app import create_app
from orchestrator.embedded.ports import free_port
from orchestrator.settings import Settings
from orchestrator.store import claims, consequences
from orchestrator.store.database import Database
from tests.waiting import wait_until
from workers.process import Process

ADMIN_KEY = "sf_test-administrator"


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of the API as long as the block lasts."""
    port = free_port()
    here = settings.model_copy(update={"port": port})
    server = uvicorn.Server(
        uvicorn.Config(create_app(here), port=port, log_level="warning", timeout_graceful_shutdown=3)
    )
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), 60, "the API answers")
        assert thread.is_alive(), "the API did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def working(settings: Settings, *, warm: bool = False) -> Iterator[Process]:
    """A worker that does what is queued, in the order in which a dispatcher would give it away."""
    process = Process("worker", settings, warm=warm, threads=1)
    over = threading.Event()
    db = Database(settings.database_url)
    with db.write() as tx:
        claims.set_room(tx, cpus=4, gpus=0)
    thread = threading.Thread(target=_work, args=(process, db, over.is_set), name="worker")
    thread.start()
    try:
        yield process
    finally:
        over.set()
        thread.join(60)
        process.close()
        db.dispose()


def _work(process: Process, db: Database, over: Callable[[], bool]) -> None:
    turn = threading.Event()
    while not over():
        with db.write() as tx:
            consequences.draw(tx)
        with db.write() as tx:
            claimed = claims.claim_next(tx, owner="test", lease_s=60.0)
        if claimed is None:
            turn.wait(0.05)
        else:
            process.run(claimed.ticket)
