"""Backup of a service at work and its restoration into an empty one, from either database into the other."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from orchestrator import backup
from orchestrator.backup import BackupError
from orchestrator.objects import Objects
from orchestrator.settings import Settings
from orchestrator.store import dump, keys, migrate
from orchestrator.store.database import Database
from orchestrator.store.queue import Ticket
from orchestrator.store.tables import Base
from tests.servers import S3Server
from tests.waiting import wait_until
from tests.workers.bench import TRAIN, Bench, photos
from workers.platform import Platform

LONG = {**TRAIN, "steps": 60, "checkpoint_every": 5, "preview_every": 30}


@pytest.fixture
def source(settings: Settings) -> Iterator[Bench]:
    """A service with pictures."""
    platform = Platform.open(settings.model_copy(update={"renew_s": 0.05}))
    bench = Bench(platform)
    bench.dataset("photos", photos(6))
    bench.dataset("paintings", photos(3, first_seed=100))
    yield bench
    platform.close()


@pytest.fixture
def empty(settings: Settings, s3_server: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Another service of the other kind of database, with nothing in it, not even tables or a bucket."""
    if settings.is_sqlite:
        url: str = request.getfixturevalue("postgresql_url")
    else:
        url = f"sqlite:///{tmp_path}/restored.db"
    return settings.model_copy(
        update={"database_url": url, "s3_bucket": f"{settings.s3_bucket}-restored", "cache_dir": tmp_path / "other"}
    )


def silent(line: str) -> None:
    assert line


def rows(settings: Settings, folder: Path) -> dict[str, set[str]]:
    """Every row as a line, by table."""
    db = Database(settings.database_url)
    dump.write(db, folder)
    db.dispose()
    tables = {path.stem: path.read_text().splitlines() for path in folder.iterdir()}
    return {name: {json.dumps(json.loads(line), sort_keys=True) for line in lines} for name, lines in tables.items()}


def test_a_job_at_work_goes_on_from_its_checkpoint_in_the_restored_service(
    source: Bench, settings: Settings, empty: Settings, tmp_path: Path
):
    job_id = source.submit("metastyle/train", config=LONG)
    at_work = threading.Thread(target=source.run, args=(source.claim(),))
    at_work.start()
    wait_until(lambda: len(source.checkpoints(job_id)) >= 2, 60, "two checkpoints are there")
    assert backup.back_up(settings, tmp_path / "backup", silent) == []
    at_work.join(120)
    assert source.job(job_id).status == "succeeded"

    backup.restore(empty, tmp_path / "backup", silent)
    platform = Platform.open(empty)
    restored = Bench.__new__(Bench)
    restored.__dict__ |= source.__dict__ | {"platform": platform, "db": platform.db, "objects": platform.objects}
    assert restored.job(job_id).status == "running", "of that moment"
    kept = restored.checkpoints(job_id)[-1].step
    restored.lose(Ticket(job_id, 1))  # its actor is not there, as a dispatcher sees at once
    assert restored.run(restored.claim()) == "succeeded"
    assert [a.resumed_from for a in restored.attempts(job_id)] == [0, kept]
    assert restored.model_bytes(job_id) == source.model_bytes(job_id)
    assert sorted(restored.metric(job_id, "style_loss")) == list(range(1, 61))
    for file in restored.model(job_id).files:
        data = restored.objects.get(f"{restored.model(job_id).prefix}/{file['path']}")
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
    platform.close()


def test_what_comes_back_is_what_was_there(source: Bench, settings: Settings, empty: Settings, tmp_path: Path):
    source.finished("metastyle/train", config=TRAIN)
    backup.back_up(settings, tmp_path / "backup", silent)
    backup.restore(empty.model_copy(update={"admin_key": None}), tmp_path / "backup", silent)
    assert rows(empty, tmp_path / "after") == rows(settings, tmp_path / "before")
    there, here = Objects(settings), Objects(empty)
    assert dict(here.sizes("")) == dict(there.sizes(""))
    assert all(here.get(key) == there.get(key) for key in here.keys(""))


def test_the_restored_service_takes_the_key_of_its_own_settings(
    source: Bench, settings: Settings, empty: Settings, tmp_path: Path
):
    backup.back_up(settings, tmp_path / "backup", silent)
    backup.restore(empty, tmp_path / "backup", silent)
    assert empty.admin_key is not None
    db = Database(empty.database_url)
    with db.read() as tx:
        caller = keys.caller_of(tx, keys.digest_of(empty.admin_key.get_secret_value()))
    db.dispose()
    assert caller is not None
    assert caller.admin


def test_a_second_backup_copies_only_what_is_new(source: Bench, settings: Settings, tmp_path: Path):
    told: list[str] = []
    source.objects.put("uploads/cut-off", b"of no row")
    for _ in range(2):
        backup.back_up(settings, tmp_path / "backup", told.append)
    assert " 0 new objects" in told[-1]
    source.objects.delete(["uploads/cut-off"])
    backup.back_up(settings, tmp_path / "backup", told.append)
    assert not (tmp_path / "backup/objects/uploads/cut-off").exists()


def test_a_copy_that_rows_need_outlives_its_object(source: Bench, settings: Settings, empty: Settings, tmp_path: Path):
    """A checkpoint may be replaced after one round has copied it and the next has taken the rows that name it."""
    job = source.finished("metastyle/train", config=TRAIN)
    needed = f"{source.model(job.id).prefix}/model.safetensors"
    backup.back_up(settings, tmp_path / "backup", silent)
    source.objects.delete([needed])
    assert backup.back_up(settings, tmp_path / "backup", silent) == []
    backup.restore(empty, tmp_path / "backup", silent)
    assert Objects(empty).get(needed)


def test_what_the_object_store_has_lost_is_named(source: Bench, settings: Settings, tmp_path: Path):
    job = source.finished("metastyle/train", config=TRAIN)
    lost = f"{source.model(job.id).prefix}/model.safetensors"
    source.objects.delete([lost])
    assert backup.back_up(settings, tmp_path / "backup", silent) == [lost]


def test_only_an_empty_service_is_restored_into(source: Bench, settings: Settings, tmp_path: Path):
    backup.back_up(settings, tmp_path / "backup", silent)
    with pytest.raises(BackupError, match="is not empty: it has rows in"):
        backup.restore(settings, tmp_path / "backup", silent)


def test_half_a_backup_and_a_damaged_one_are_refused(
    source: Bench, settings: Settings, empty: Settings, tmp_path: Path
):
    folder = tmp_path / "backup"
    with pytest.raises(BackupError, match=r"no manifest\.json"):
        backup.restore(empty, folder, silent)
    backup.back_up(settings, folder, silent)
    blob = next(path for path in (folder / "objects/blobs").rglob("*") if path.is_file())
    blob.write_bytes(b"something else")
    with pytest.raises(BackupError, match="missing or damaged"):
        backup.restore(empty, folder, silent)
    shutil.rmtree(folder / "objects")
    with pytest.raises(BackupError, match="missing or damaged"):
        backup.restore(empty, folder, silent)
    db = Database(empty.database_url)
    with db.read() as tx:
        assert all(tx.scalar(select(table).limit(1)) is None for table in Base.metadata.sorted_tables)
    db.dispose()


def test_a_backup_of_an_older_release_gets_the_defaults_of_what_came_later(tmp_path: Path, sqlite_url: str):
    db = Database(sqlite_url)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/tenants.jsonl").write_text('{"id": "tenant_1", "name": "old", "created_at": 1.0}\n')
    with db.write() as tx:
        assert dump.restore(tx, tmp_path / "rows")["tenants"] == 1
    (tmp_path / "rows/moons.jsonl").write_text("")
    with db.write() as tx, pytest.raises(dump.NotRestorable, match="moons"):
        dump.restore(tx, tmp_path / "rows")
    db.dispose()


def test_a_database_of_an_older_schema_is_not_backed_up(tmp_path: Path, settings: Settings):
    bare = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/bare.db"})
    with pytest.raises(migrate.Outdated, match="stylefoundry migrate"):
        backup.back_up(bare, tmp_path / "backup", silent)
