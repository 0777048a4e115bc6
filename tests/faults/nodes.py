"""More nodes for a service's Ray, as processes of this machine, to be added, drained and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from sqlalchemy import select

from orchestrator.embedded.tether import tethered
from orchestrator.store.database import Database
from orchestrator.store.tables import Ledger
from tests.faults.work import Work
from tests.waiting import wait_until

RAY = (sys.executable, "-P", "-m", "ray.scripts.scripts")
OBJECT_STORE_BYTES = 80 * 1024 * 1024
JOIN_S = 120.0
PLACES = """
import json, sys, ray
from ray.util import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps([group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED"]))
"""


class Node:
    """One more node of a running service's Ray. Use in the main thread: it ends with this process."""

    def __init__(self, service: Work, *, cpus: int) -> None:
        # What the first node works with: settings, token, and the mark by which a stack knows its processes.
        self._environment = service.ray_environment()
        self._address = service.ray_address()
        command = [
            *RAY, "start", f"--address={self._address}", "--block", f"--num-cpus={cpus}", "--min-worker-port=0",
            "--max-worker-port=0", "--dashboard-agent-listen-port=0", f"--object-store-memory={OBJECT_STORE_BYTES}",
            "--disable-usage-stats",
        ]  # fmt: skip
        with (service.folder / f"node-{os.urandom(2).hex()}.log").open("wb") as log:
            self._process = subprocess.Popen(
                tethered(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
                cwd=service.ray_folder,
            )  # fmt: skip

    @property
    def id(self) -> str:
        """Ray's own."""
        for argument in self._raylet().cmdline():
            if argument.startswith("--node_id="):
                return str(argument.partition("=")[2])
        raise AssertionError("a raylet is told its node's id")

    def drain(self) -> None:
        """Tell Ray that the node is about to go."""
        reason = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=900")
        command = [*RAY, "drain-node", f"--address={self._address}", f"--node-id={self.id}", *reason]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=120)

    def kill(self) -> None:
        """The whole node, as a power cut would; one that is dead already is no error."""
        if self._process.poll() is not None:
            return
        for process in [*psutil.Process(self._process.pid).children(recursive=True), self._process]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait(30)

    def has_worker(self) -> bool:
        """Whether one of a gang's processes is here."""
        return any(is_worker(process) for process in psutil.Process(self._process.pid).children(recursive=True))

    def _raylet(self) -> psutil.Process:
        children = psutil.Process(self._process.pid).children(recursive=True)
        return next(process for process in children if process.name() == "raylet")


@contextmanager
def one_more(service: Work, database_url: str, *, cpus: int) -> Iterator[Node]:
    """A node that the ledger has counted; it is gone there too when the block has ended."""
    before = room(database_url)
    node = Node(service, cpus=cpus)
    try:
        wait_until(lambda: room(database_url) == before + cpus, JOIN_S, "the node's cores are in the ledger")
        yield node
    finally:
        node.kill()
        wait_until(lambda: room(database_url) == before, JOIN_S, "the node's cores are out of the ledger")


def room(database_url: str) -> int:
    """Cores that jobs may take."""
    db = Database(database_url)
    try:
        with db.read() as tx:
            return tx.scalar(select(Ledger.cpus)) or 0
    finally:
        db.dispose()


def places(service: Work) -> list[str]:
    """The names of the placement groups that Ray still holds room for."""
    ran = subprocess.run(
        [sys.executable, "-c", PLACES, service.ray_address()],
        env=service.ray_environment(), cwd=service.ray_folder, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return found


def is_worker(process: psutil.Process) -> bool:
    """Whether this is an actor at work on a training: Ray writes what it does over its command line."""
    try:
        return " ".join(process.cmdline()).startswith("ray::Worker")
    except psutil.Error:
        return False


def members_beside_rank_0(service: Work, job_id: str) -> list[int]:
    """Process ids of a gang's workers with another rank. One that a second dispatcher watches shows `wait`."""
    folder, rank_0 = str(service.ray_folder), service.worker_pid(job_id)
    pids = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        title = " ".join(process.info["cmdline"] or [])
        at_work = title.startswith(("ray::Worker.follow", "ray::Worker.wait")) and process.pid != rank_0
        if at_work and str(process.info["cwd"]).startswith(folder):
            pids.append(process.pid)
    return pids
