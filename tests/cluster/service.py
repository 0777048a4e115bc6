"""The service as it is deployed: every part a process, two API replicas, two dispatchers, nobody the leader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from orchestrator.embedded.ports import free_port
from orchestrator.embedded.tether import tethered
from stylefoundry import Client
from tests.servers import RayServer
from tests.waiting import wait_until

START_S = 120.0


class Replica:
    """One process of ours; `url` where it answers."""

    def __init__(self, module: str, log: Path, environment: Mapping[str, str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._module, self._environment = module, environment
        self.start()

    def start(self) -> None:
        """Also after a kill, on the same port."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                tethered([sys.executable, "-P", "-m", self._module]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | self._environment,
                cwd=self.log.parent,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


class Service:
    """PostgreSQL, Valkey and S3 are the test's; Ray and the replicas are this one's."""

    def __init__(self, folder: Path, settings: Mapping[str, str], ray: RayServer) -> None:
        self._settings = {**settings, "STYLEFOUNDRY_RAY_ADDRESS": f"ray://127.0.0.1:{ray.port}"}
        self._folder, self._ray = folder, ray
        self._ports = {ray.port}
        self.apis = [self._api(n) for n in (1, 2)]
        self.dispatchers = [self._dispatcher(n) for n in (1, 2)]

    def _port(self) -> int:
        """One that no other part has been given, though it does not listen yet."""
        self._ports.add(port := free_port(apart_from=self._ports))
        return port

    def _api(self, n: int) -> Replica:
        port = self._port()
        own = {"STYLEFOUNDRY_PORT": str(port)}
        return Replica("orchestrator.api", self._folder / f"api-{n}.log", self._settings | own, port)

    def _dispatcher(self, n: int) -> Replica:
        port = self._port()
        own = {"STYLEFOUNDRY_DISPATCH_PORT": str(port), "OMP_NUM_THREADS": "1", **self._ray.auth()}
        return Replica("orchestrator.dispatch", self._folder / f"dispatcher-{n}.log", self._settings | own, port)

    def client(self, n: int) -> Client:
        """Of the n-th API replica, 0 or 1."""
        key = self._settings["STYLEFOUNDRY_ADMIN_KEY"]
        return Client(url=self.apis[n].url, api_key=key, patience_s=90)

    def wait_until_up(self) -> None:
        for api in self.apis:
            wait_until(lambda: _ready(api.url) or not api.running, START_S, "an API replica is ready", every_s=0.2)  # noqa: B023
            assert api.running, api.log.read_text()[-2000:]

    def stop(self) -> None:
        for replica in (*self.apis, *self.dispatchers):
            if replica.running:
                replica.kill()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return bool(json.load(answer)["status"] == "ready")
    except OSError:
        return False
