"""The service as it is deployed, to be killed: every part a process of its own, two APIs and two dispatchers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from orchestrator.store import migrate
from stylefoundry import Client
from tests.cluster.service import Service
from tests.faults.work import Work
from tests.servers import PostgresServer, RayServer, S3Server, Server, ValkeyServer

KEY = "sf_" + 32 * "k"


class Stores(NamedTuple):
    postgres: PostgresServer
    valkey: ValkeyServer
    s3: S3Server


class Deployed(Work):
    """Stores and Ray are killed and started again as an operator would; replicas too, both of a kind at once."""

    def __init__(self, folder: Path, stores: Stores, ray: RayServer, service: Service) -> None:
        self.folder, self.ray, self.service, self.stores = folder, ray, service, stores

    def client(self) -> Client:
        return self.service.client(0)

    def victim(self, part: str) -> Callable[[], None]:
        servers: Mapping[str, Server] = {"redis": self.stores.valkey, "s3": self.stores.s3, "ray": self.ray}
        replicas = {"api": self.service.apis, "dispatcher": self.service.dispatchers}
        if part == "everything":
            parts = [*servers.values(), self.stores.postgres, *self.service.apis, *self.service.dispatchers]
        else:
            parts = [servers[part]] if part in servers else list(replicas[part])

        def kill() -> None:
            for one in parts:
                one.kill()
            for one in parts:
                one.start()

        return kill

    @property
    def ray_folder(self) -> Path:
        return self.ray.folder

    def ray_address(self) -> str:
        return (self.ray.folder / "ray_current_cluster").read_text().strip()

    def ray_environment(self) -> dict[str, str]:
        return self.ray.environment_of_nodes()


@contextmanager
def deployed(folder: Path, stores: Stores, name: str, *, cpus: int | None = 2) -> Iterator[Deployed]:
    """A service with pictures pushed, for as long as the block lasts.

    name: of its own database and bucket. cpus: that jobs may take; None: what Ray has.
    """
    for store in stores:
        store.start()
    database_url = stores.postgres.with_database(name)
    migrate.upgrade(database_url)
    settings = {
        "STYLEFOUNDRY_DATABASE_URL": database_url,
        "STYLEFOUNDRY_REDIS_URL": stores.valkey.url,
        "STYLEFOUNDRY_S3_URL": stores.s3.url,
        "STYLEFOUNDRY_S3_BUCKET": name,
        "STYLEFOUNDRY_S3_ACCESS_KEY": stores.s3.access_key,
        "STYLEFOUNDRY_S3_SECRET_KEY": stores.s3.secret_key,
        "STYLEFOUNDRY_ADMIN_KEY": KEY,
        "STYLEFOUNDRY_CACHE_DIR": str(folder / "cache"),
        "STYLEFOUNDRY_WARM_ENCODER": "random",
    }
    if cpus is not None:
        settings["STYLEFOUNDRY_CPUS"] = str(cpus)
    folder.mkdir(exist_ok=True)
    short = Path(tempfile.mkdtemp(prefix="sfr-"))
    ray = RayServer(short / "r", settings)
    try:
        ray.start()
        service = Service(folder, settings, ray)
        try:
            service.wait_until_up()
            running = Deployed(folder, stores, ray, service)
            running.push_pictures()
            yield running
        finally:
            service.stop()
    finally:
        ray.kill()
        shutil.rmtree(short, ignore_errors=True)
        stores.postgres.start()
        stores.postgres.without_database(name)
