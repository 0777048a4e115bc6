"""The client against a running service: what it asks for, and what it does when the way there breaks."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.bus import Bus
from orchestrator.objects import Objects, upload_key
from orchestrator.settings import Settings
from orchestrator.store import claims, queue
from orchestrator.store.database import Database
from orchestrator.store.queue import Batch, Ticket
from stylefoundry import ApiError, Client, JobFailed, Rejected, Unreachable
from stylefoundry.types import Job
from stylefoundry.watch import watch
from tests.images import jpeg, png
from tests.servers import S3Server
from tests.serving import ADMIN_KEY, serving, working
from tests.stylefoundry.proxy import Proxy, proxied
from tests.waiting import wait_until

SMALL = {
    "encoder": "random", "width": 4, "res_blocks": 1, "content_size": 32, "style_size": 32, "batch_size": 1,
    "steps": 6, "checkpoint_every": 3, "preview_every": 3, "style_weight": 10.0, "onnx": False,
}  # fmt: skip
TRAIN = SMALL | {"meta_batch": 1, "inner_lr": 0.001}
ADAPT = {key: value for key, value in SMALL.items() if key not in ("encoder", "width", "res_blocks")} | {
    "preview_images": 1
}


@pytest.fixture
def proxy(service: str) -> Iterator[Proxy]:
    with proxied(service) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: Proxy) -> Iterator[Client]:
    """A client whose way to the service can be broken."""
    with Client(proxy.url, ADMIN_KEY, patience_s=20) as client:
        yield client


@pytest.fixture
def db(service_settings: Settings) -> Iterator[Database]:
    db = Database(service_settings.database_url)
    yield db
    db.dispose()


@pytest.fixture
def datasets(client: Client, service_settings: Settings, photos: Path) -> None:
    """`photos` and `paintings`, ready."""
    with working(service_settings):
        client.push_dataset("photos", photos)
        client.push_dataset("paintings", photos)


def train(client: Client, **changes: object) -> Job:
    return client.submit(
        "metastyle",
        "train",
        datasets={"content": "photos", "style": "paintings"},
        config=TRAIN,
        **changes,  # type: ignore[arg-type]
    )


def begun(db: Database) -> Ticket:
    """The first queued job, as a dispatcher claims it and a worker begins it."""
    with db.write() as tx:
        claims.set_room(tx, cpus=4, gpus=0)
        claimed = claims.claim_next(tx, owner="test", lease_s=60)
    assert claimed is not None
    with db.write() as tx:
        queue.begin(tx, claimed.ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=6, lease_s=60)
    return claimed.ticket


def tell(db: Database, bus: Bus, ticket: Ticket, step: int) -> None:
    """A worker's batch with one point and one line."""
    batch = Batch(
        step=step,
        points={"style_loss": [(step, 1.0 / step)]},
        log=[{"at": 0.0, "level": "info", "text": f"step {step}"}],
    )
    with db.write() as tx:
        assert queue.record(tx, ticket, batch, lease_s=60) is not None
    bus.tell(ticket.job_id)


# --- datasets ---------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_ready_version_and_the_same_folder_the_same_one(
    client: Client, service_settings: Settings, photos: Path
):
    seen: dict[str, list[int]] = {}
    with working(service_settings):
        first = client.push_dataset(
            "photos", photos, progress=lambda stage, done, total: seen.setdefault(stage, []).append(done)
        )
        again = client.push_dataset("photos", photos)
    assert (first.version, first.status, first.count) == (1, "ready", 6)
    assert again.version == 1
    assert list(seen) == ["hash", "upload", "ingest"]
    assert all(done == sorted(done) for done in seen.values())


def test_only_what_the_service_does_not_hold_is_sent(client: Client, service_settings: Settings, photos: Path):
    with working(service_settings):
        client.push_dataset("photos", photos)
        new = jpeg(64, 48, seed=77)
        (photos / "new.jpg").write_bytes(new)
        objects = Objects(service_settings)
        objects.delete_prefix("uploads/")
        assert client.push_dataset("photos", photos).version == 2
    left = [key.rpartition("/")[2] for key in objects.keys("uploads/")]
    assert left in ([], [hashlib.sha256(new).hexdigest()])


def test_files_that_cannot_be_used_are_reported(client: Client, service_settings: Settings, photos: Path):
    (photos / "broken.jpg").write_bytes(jpeg(64, 48, seed=1)[:200])
    with working(service_settings):
        dataset = client.push_dataset("photos", photos)
    assert [refused.path for refused in dataset.refused] == ["broken.jpg"]
    assert dataset.refused[0].reason


def test_a_version_without_a_usable_picture_is_rejected(client: Client, service_settings: Settings, tmp_path: Path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.jpg").write_text("not a picture")
    with working(service_settings), pytest.raises(Rejected) as caught:
        client.push_dataset("bad", tmp_path / "bad")
    assert caught.value.dataset.status == "rejected"


def test_subfolders_are_the_classes_of_a_labelled_dataset(client: Client, service_settings: Settings, tmp_path: Path):
    for seed, label in enumerate(("dogs", "cats")):
        (tmp_path / "pets" / label).mkdir(parents=True)
        (tmp_path / "pets" / label / "1.png").write_bytes(png(64, 48, seed=seed))
    with working(service_settings):
        assert client.push_dataset("pets", tmp_path / "pets", kind="labelled").classes == ["cats", "dogs"]


def test_uploads_survive_connections_that_break(service_settings: Settings, service: str, photos: Path):
    with proxied(service_settings.s3_url) as store:
        # The url is signed for the address that clients use: the proxy's.
        public = service_settings.model_copy(update={"s3_public_url": store.url})
        with serving(public) as url, Client(url, ADMIN_KEY) as client, working(service_settings):
            store.drops = 4
            assert client.push_dataset("photos", photos).count == 6
            assert store.drops == 0


def test_uploads_survive_the_death_of_the_object_store(
    client: Client, service_settings: Settings, photos: Path, s3_server: S3Server
):
    deaths: list[int] = []

    def kill_it_once(stage: str, done: int, total: int) -> None:
        if stage == "upload" and 0 < done < total and not deaths:
            deaths.append(done)
            s3_server.kill()
            s3_server.start()

    with working(service_settings):
        assert client.push_dataset("photos", photos, progress=kill_it_once).count == 6
    assert deaths


def test_a_folder_that_cannot_be_pushed_is_told_before_anything_is_sent(client: Client, tmp_path: Path):
    with pytest.raises(ValueError, match="is not a folder"):
        client.push_dataset("photos", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no pictures"):
        client.push_dataset("photos", tmp_path)
    (tmp_path / "loose.jpg").write_bytes(jpeg())
    with pytest.raises(ValueError, match=r"loose\.jpg.*subfolder"):
        client.push_dataset("photos", tmp_path, kind="labelled")


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("datasets")
def test_the_whole_way_from_a_folder_to_a_stylised_picture(client: Client, service_settings: Settings, tmp_path: Path):
    with working(service_settings, warm=True):
        meta = client.wait(train(client, name="meta").id)
        adapted = client.submit(
            "metastyle",
            "adapt",
            datasets={"content": "photos", "style": "paintings"},
            style_image="0.jpg",
            base_model="meta",
            config=ADAPT,
            name="starry",
            seed=3,
            tags={"show": "spring"},
        )
        done = client.wait(adapted.id)
        (tmp_path / "content.jpg").write_bytes(jpeg(80, 60, seed=123))
        drawn = client.stylize("starry", tmp_path / "content.jpg", params={"strength": 0.5})
    assert (meta.model, done.model, done.progress.step) == ("meta@1", "starry@1", 6)
    assert (done.base_model, done.seed, done.tags) == ("meta@1", 3, {"show": "spring"})
    assert drawn.startswith(b"\x89PNG")
    style_loss = next(series for series in client.metrics(done.id) if series.name == "style_loss")
    assert [step for step, _ in style_loss.points] == [1, 2, 3, 4, 5, 6]
    assert [c.step for c in client.checkpoints(done.id)] == [3, 6]
    assert {sample.step for sample in client.samples(done.id)} >= {3, 6}
    assert [(a.attempt, a.outcome) for a in client.attempts(done.id)] == [(1, "succeeded")]
    assert any("attempt 1" in line.text for line in client.logs(done.id))
    assert [job.id for job in client.jobs(tag="show:spring")] == [done.id]

    folder = client.fetch_model("starry", folder=tmp_path / "starry")
    for file in client.model("starry").files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
    assert client.set_alias("starry", "best", 1).aliases == ["latest", "best"]
    assert client.fetch_model("starry", "best", folder) == folder


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize("terminal", [True, False])
def test_a_watched_job_is_shown_to_its_end(client: Client, service_settings: Settings, terminal: bool):
    console = Console(file=StringIO(), force_terminal=terminal, width=120, highlight=False)
    with working(service_settings):
        done = watch(client, train(client, name="meta").id, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert (done.status, done.model) == ("succeeded", "meta@1")
    assert "running" in shown
    assert "checkpoint of step 3" in shown
    assert "style_loss" in shown
    assert ("\x1b[" in shown) == terminal


@pytest.mark.usefixtures("datasets")
def test_a_job_can_be_paused_resumed_cancelled_and_tried_again(client: Client):
    job = train(client)
    assert client.pause(job.id).status == "paused"
    assert client.resume(job.id).status == "queued"
    assert client.cancel(job.id).status == "cancelled"
    with pytest.raises(ApiError) as refused:
        client.pause(job.id)
    assert refused.value.status == 409
    with pytest.raises(JobFailed, match="cancelled"):
        client.wait(job.id)
    retry = client.retry(job.id, config={"steps": 9})
    assert (retry.parent, retry.config["steps"], retry.status) == (job.id, 9, "queued")


@pytest.mark.usefixtures("datasets")
def test_every_bad_field_is_named(client: Client):
    with pytest.raises(ApiError) as refused:
        client.submit(
            "metastyle", "train", datasets={"content": "photos", "style": "paintings"}, config={"lr": -1, "stepz": 3}
        )
    assert refused.value.status == 422
    assert {field.pointer for field in refused.value.errors} == {"/config/lr", "/config/stepz"}


def test_a_wrong_key_is_an_error_with_its_status(service: str):
    with Client(service, "sf_wrong") as client, pytest.raises(ApiError) as refused:
        client.jobs()
    assert refused.value.status == 401


# --- when the way breaks ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("datasets")
def test_a_submit_whose_answer_is_lost_makes_one_job(through: Client, proxy: Proxy):
    proxy.drops = 2
    job = train(through, name="once")
    assert [found.id for found in through.jobs(q="once")] == [job.id]
    assert proxy.drops == 0


def test_a_busy_service_is_asked_again(through: Client, proxy: Proxy):
    proxy.busy_answers = 3
    assert through.jobs() == []
    assert proxy.busy_answers == 0


def test_a_service_that_is_not_there_is_unreachable_after_the_patience(proxy: Proxy):
    proxy.close()
    with Client(proxy.url, ADMIN_KEY, patience_s=0.3) as client, pytest.raises(Unreachable, match=proxy.url):
        client.jobs()


def test_a_service_that_stays_busy_is_an_error_with_its_status(proxy: Proxy):
    proxy.busy_answers = 10_000
    with Client(proxy.url, ADMIN_KEY, patience_s=0.5) as client, pytest.raises(ApiError) as busy:
        client.jobs()
    assert busy.value.status == 503


@pytest.mark.usefixtures("datasets")
def test_followed_events_have_no_gap_and_no_repeat_however_often_the_stream_is_cut(
    through: Client, proxy: Proxy, db: Database, redis_url: str
):
    bus = Bus(redis_url)
    job = train(through)
    ticket = begun(db)
    seen: list[int] = []
    values: dict[int, float] = {}

    def follow() -> None:
        for event in through.follow(job.id):
            seen.append(event.id)
            values.update(dict(event.body.get("points", {}).get("style_loss", [])))

    thread = threading.Thread(target=follow)
    thread.start()
    for step in range(1, 7):
        tell(db, bus, ticket, step)
        wait_until(lambda step=step: step in values, 20, f"the client has seen step {step}")
        proxy.cut()
    with db.write() as tx:
        assert queue.fail(tx, ticket, queue.ErrorType.DIVERGED, "style_loss is nan") is not None
    bus.tell(job.id)
    thread.join(20)
    assert not thread.is_alive(), "the stream ends with the job"
    assert seen == list(range(1, len(seen) + 1))
    assert seen[-1] == through.events(job.id)[-1].id
    assert values == {step: 1.0 / step for step in range(1, 7)}


@pytest.mark.usefixtures("datasets")
def test_a_follower_can_go_on_from_the_event_that_it_knows(client: Client):
    job = train(client)
    client.cancel(job.id)
    assert [event.id for event in client.follow(job.id, after=1)] == [2]


def test_an_upload_that_never_arrives_is_an_error_that_names_the_file_and_no_signature(
    service_settings: Settings, photos: Path
):
    nowhere = service_settings.model_copy(update={"s3_public_url": "http://127.0.0.1:9"})
    with serving(nowhere) as url, Client(url, ADMIN_KEY) as client, pytest.raises(Unreachable) as lost:
        client.push_dataset("photos", photos)
    assert "could not be uploaded" in str(lost.value)
    assert "Signature" not in str(lost.value)


def test_what_was_uploaded_lies_under_its_digest(client: Client, service_settings: Settings, photos: Path):
    client.push_dataset("photos", photos, wait=False)
    objects = Objects(service_settings)
    content = (photos / "0.jpg").read_bytes()
    (tenant,) = {key.split("/")[1] for key in objects.keys("uploads/")}
    assert objects.get(upload_key(tenant, hashlib.sha256(content).hexdigest())) == content
