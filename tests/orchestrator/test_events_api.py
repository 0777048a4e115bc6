"""A job's history: events as a list and as a stream, curves, log lines, checkpoints, pictures, attempts."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from orchestrator.bus import Bus
from orchestrator.embedded.ports import free_port
from orchestrator.settings import Settings
from orchestrator.states import Move
from orchestrator.store import claims, queue
from orchestrator.store.queue import Batch, Ticket
from tests.orchestrator.conftest import ADMIN_KEY, Api, pointers, problem
from tests.servers import ValkeyServer
from tests.serving import serving
from tests.waiting import wait_until


class Worker:
    """The hands of a worker on one job."""

    def __init__(self, api: Api, bus: Bus | None = None) -> None:
        self.api, self.bus = api, bus
        api.room(cpus=4)
        self.job: str = api.job()["id"]
        self.begin()

    def begin(self, resumed_from: int = 0) -> None:
        with self.api.db.write() as tx:
            claimed = claims.claim_next(tx, owner="test", lease_s=60)
        assert claimed is not None
        self.ticket: Ticket = claimed.ticket
        facts: dict[str, Any] = {"actor": "a", "node": "n", "pid": 1, "resumed_from": resumed_from, "total_steps": 20}
        with self.api.db.write() as tx:
            assert queue.begin(tx, self.ticket, lease_s=60, **facts) is not None
        self.tell()

    def record(self, **batch: Any) -> None:
        with self.api.db.write() as tx:
            assert queue.record(tx, self.ticket, Batch(**({"step": 1} | batch)), lease_s=60) is not None
        self.tell()

    def cancel(self) -> None:
        with self.api.db.write() as tx:
            queue.move(tx, self.job, Move.CANCEL)
            queue.stop(tx, self.ticket)
        self.tell()

    def tell(self) -> None:
        if self.bus is not None:
            self.bus.tell(self.job)

    def get(self, what: str, **params: Any) -> Any:
        answer = self.api.get(f"/v1/jobs/{self.job}/{what}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def busy(self) -> None:
        """One of everything that a worker says."""
        self.record(
            step=3,
            points={"style_loss": [(1, 3.0), (2, 2.0), (3, 1.0)]},
            log=[{"at": 1.5, "level": "info", "text": "first"}, {"at": 2.0, "level": "warning", "text": "second"}],
            samples=[{"step": 3, "name": "result-1", "width": 8, "height": 6, "key": "samples/3"}],
            checkpoints=[
                {
                    "step": 3, "prefix": "checkpoints/3", "manifest_sha256": "0" * 64, "bytes": 5,
                    "files": [{"path": "weights.safetensors", "size": 5, "sha256": "0" * 64}],
                }
            ],
        )  # fmt: skip


def test_events_are_flat_and_their_ids_have_no_gap(api: Api):
    worker = Worker(api)
    api.objects.put("samples/3", b"picture")
    worker.busy()
    events = worker.get("events")["data"]
    assert [event["id"] for event in events] == list(range(1, 8))
    assert [(e["event"], e["attempt"]) for e in events] == [
        ("status", 0), ("status", 1), ("status", 1), ("metric", 1), ("log", 1), ("sample", 1), ("checkpoint", 1)
    ]  # fmt: skip
    assert all(event["at"].endswith("Z") for event in events)
    assert [(e["status"], e["phase"], e["reason"]) for e in events[:3]] == [
        ("queued", "pending", "submitted"), ("starting", "active", "claimed"), ("running", "active", "began")
    ]  # fmt: skip
    assert events[2]["resumed_from"] == 0
    assert events[3]["points"] == {"style_loss": [[1, 3.0], [2, 2.0], [3, 1.0]]}
    assert events[4]["lines"][0] == {"at": "1970-01-01T00:00:01.500Z", "level": "info", "text": "first"}
    assert (events[5]["step"], events[5]["name"], events[5]["width"], events[5]["height"]) == (3, "result-1", 8, 6)
    assert httpx2.get(events[5]["url"]).content == b"picture"
    assert (events[6]["step"], events[6]["status"], events[6]["bytes"]) == (3, "ready", 5)
    assert "/checkpoints/3/weights.safetensors?" in events[6]["files"][0]["url"]


def test_the_list_goes_on_after_an_id_and_page_by_page(api: Api):
    worker = Worker(api)
    worker.busy()
    assert [event["id"] for event in worker.get("events", after=5)["data"]] == [6, 7]
    page = worker.get("events", limit=4)
    rest = worker.get("events", limit=4, cursor=page["next_cursor"])
    assert [event["id"] for event in page["data"] + rest["data"]] == list(range(1, 8))
    assert rest["next_cursor"] is None
    path = f"/v1/jobs/{worker.job}/events"
    assert pointers(api.get(path, params={"after": -1})) == ["/query/after"]
    assert pointers(api.get(path, headers={"Last-Event-ID": "x"})) == ["/header/last-event-id"]


def test_log_lines_are_flat_and_paged_within_a_batch(api: Api):
    worker = Worker(api)
    for n in range(3):
        worker.record(log=[{"at": float(m), "level": "info", "text": f"{n}{m}"} for m in range(3)])
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = worker.get("logs", limit=2, **cursor)
        assert len(page["data"]) <= 2
        seen += [line["text"] for line in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"{n}{m}" for n in range(3) for m in range(3)]
    assert worker.get("logs")["data"][4] == {
        "at": "1970-01-01T00:00:01.000Z", "attempt": 1, "level": "info", "text": "11"
    }  # fmt: skip


def test_checkpoints_samples_and_attempts_are_rows(api: Api):
    worker = Worker(api)
    worker.busy()
    with api.db.write() as tx:
        queue.lost(tx, worker.ticket, "its node is gone")
        queue.mark_damaged(tx, worker.job, 1, 3)
    (checkpoint,) = worker.get("checkpoints")["data"]
    assert (checkpoint["step"], checkpoint["attempt"], checkpoint["bytes"]) == (3, 1, 5)
    assert checkpoint["status"] == "damaged"
    assert [file["path"] for file in checkpoint["files"]] == ["weights.safetensors"]
    (sample,) = worker.get("samples")["data"]
    assert (sample["step"], sample["attempt"], sample["name"], sample["width"], sample["height"]) == (
        3, 1, "result-1", 8, 6
    )  # fmt: skip
    worker.begin(resumed_from=3)
    first, second = worker.get("attempts")["data"]
    assert (first["attempt"], first["outcome"], first["node"], first["pid"]) == (1, "lost", "n", 1)
    assert first["error"] == {"type": "lost", "message": "its node is gone", "attempt": 1}
    assert (second["outcome"], second["resumed_from"], second["finished_at"]) == (None, 3, None)
    job = api.get(f"/v1/jobs/{worker.job}").json()
    assert (job["attempt"], job["error"]["message"]) == (2, "its node is gone")
    for what, count in (("attempts", 2), ("samples", 1), ("checkpoints", 1)):
        assert len(worker.get(what, limit=1)["data"]) == 1
        assert (worker.get(what, limit=1)["next_cursor"] is None) == (count == 1)
    after = worker.get("attempts", limit=1)["next_cursor"]
    assert [attempt["attempt"] for attempt in worker.get("attempts", cursor=after)["data"]] == [2]


def test_a_running_job_tells_how_far_it_is(api: Api):
    worker = Worker(api)
    assert api.get(f"/v1/jobs/{worker.job}").json()["progress"]["eta_s"] is None
    worker.record(step=10, images_per_second=2.5)
    job = api.get(f"/v1/jobs/{worker.job}").json()
    assert (job["status"], job["phase"], job["waiting"]) == ("running", "active", None)
    progress = job["progress"]
    assert (progress["step"], progress["total_steps"], progress["images_per_second"]) == (10, 20, 2.5)
    assert 0 <= progress["eta_s"] < 60


# --- curves -----------------------------------------------------------------------------------------------------------


def test_short_curves_come_whole(api: Api):
    worker = Worker(api)
    worker.record(points={"style_loss": [(1, 3.0), (2, 2.0)], "content_loss": [(1, 1.0)]})
    assert worker.get("metrics")["data"] == [
        {"name": "content_loss", "points": [[1, 1.0]]},
        {"name": "style_loss", "points": [[1, 3.0], [2, 2.0]]},
    ]
    assert [series["name"] for series in worker.get("metrics", name="style_loss")["data"]] == ["style_loss"]
    assert worker.get("metrics", name=["style_loss", "content_loss"]) == worker.get("metrics")
    assert worker.get("metrics", from_step=2)["data"] == [{"name": "style_loss", "points": [[2, 2.0]]}]
    assert worker.get("metrics", name="nothing") == {"data": []}


@pytest.mark.parametrize("max_points", [4, 7, 100])
def test_long_curves_keep_their_ends_and_every_spike(api: Api, max_points: int):
    worker = Worker(api)
    values = {step: math.sin(step / 9) for step in range(1, 501)} | {77: 40.0, 78: -40.0, 333: 30.0}
    worker.record(points={"loss": list(values.items())})
    (series,) = worker.get("metrics", max_points=max_points)["data"]
    points = dict(series["points"])
    assert list(points) == sorted(points)
    assert len(points) == len(series["points"]) <= max_points
    assert points.items() <= values.items(), "no point is made up"
    assert {1, 500} <= points.keys()
    assert (max(points.values()), min(points.values())) == (40.0, -40.0)


# --- streams ----------------------------------------------------------------------------------------------------------


@contextmanager
def stream(url: str, job: str, last_id: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of a stream as {"event", "id", "data"}."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Accept": "text/event-stream"}
    if last_id is not None:
        headers["Last-Event-ID"] = str(last_id)
    with httpx2.stream("GET", f"{url}/v1/jobs/{job}/events", headers=headers, timeout=30) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield messages(response)


def messages(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if not line:
            if "event" in found:
                yield found
            found = {}
        elif name == "data":
            found["data"] = json.loads(value)
        elif name in ("event", "id"):
            found[name] = value


@pytest.fixture
def url(settings: Settings, api: Api) -> Iterator[str]:
    """A second replica of the API, on a port."""
    with serving(settings) as address:
        yield address


def test_a_stream_tells_what_was_and_what_comes_and_then_ends(api: Api, url: str, settings: Settings):
    worker = Worker(api, Bus(settings.redis_url.get_secret_value()))
    with stream(url, worker.job) as events:
        assert [next(events)["id"] for _ in range(3)] == ["1", "2", "3"]
        worker.busy()
        metric = next(events)
        assert (metric["event"], metric["id"]) == ("metric", "4")
        worker.cancel()
        rest = list(events)
    assert [event.get("id") for event in rest] == ["5", "6", "7", "8", "9", None]
    assert (rest[-2]["data"]["status"], rest[-2]["data"]["phase"]) == ("cancelled", "terminal")
    assert rest[-1]["event"] == "end"
    listed = worker.get("events")["data"]
    assert metric["data"] == listed[3], "the same object in the list and in the stream"


def test_a_stream_goes_on_where_another_replica_left_off(api: Api, url: str):
    worker = Worker(api)
    worker.busy()
    worker.cancel()
    with stream(url, worker.job, last_id=5) as events:
        assert [event.get("id") for event in events] == ["6", "7", "8", "9", None]
    with stream(url, worker.job, last_id=9) as events:
        assert [event["event"] for event in events] == ["end"]


def test_streams_miss_nothing_and_repeat_nothing_while_redis_comes_and_goes(
    api: Api, url: str, settings: Settings, valkey_server: ValkeyServer
):
    worker = Worker(api, Bus(settings.redis_url.get_secret_value()))

    def follow(_: int) -> list[int]:
        """Reads three events a connection, then comes back."""
        seen: list[int] = []
        while True:
            with stream(url, worker.job, last_id=seen[-1] if seen else 0) as events:
                for event in events:
                    if event["event"] == "end":
                        return seen
                    seen.append(int(event["id"]))
                    if len(seen) % 3 == 0:
                        break

    with ThreadPoolExecutor(4) as pool:
        followers = [pool.submit(follow, n) for n in range(4)]
        for step in range(1, 6):
            worker.record(step=step, points={"loss": [(step, 1.0)]})
        valkey_server.kill()
        for step in range(6, 11):
            worker.record(step=step, points={"loss": [(step, 1.0)]})
        valkey_server.start()
        worker.cancel()
        for follower in followers:
            assert follower.result(timeout=60) == list(range(1, 16))


def test_a_stream_of_nothing_is_a_problem(api: Api, url: str):
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Accept": "text/event-stream"}
    problem(api.get("/v1/jobs/job_nonsense/events", headers=headers), 404)


def test_the_process_ends_at_once_also_while_streams_are_open(api: Api, settings: Settings, described: Any):
    worker = Worker(api)
    with running(settings, described) as (process, url), stream(url, worker.job) as events:
        assert next(events)["id"] == "1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) in (0, -signal.SIGTERM)
        assert [event["event"] for event in events] == ["status", "status"], "no `end`: the job goes on"


@contextmanager
def running(settings: Settings, described: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`python -m orchestrator.api` in a process of its own."""
    port = free_port()
    environment = {
        "STYLEFOUNDRY_DATABASE_URL": settings.database_url,
        "STYLEFOUNDRY_REDIS_URL": settings.redis_url.get_secret_value(),
        "STYLEFOUNDRY_S3_URL": settings.s3_url,
        "STYLEFOUNDRY_S3_BUCKET": settings.s3_bucket,
        "STYLEFOUNDRY_S3_ACCESS_KEY": settings.s3_access_key,
        "STYLEFOUNDRY_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "STYLEFOUNDRY_CACHE_DIR": str(described),
        "STYLEFOUNDRY_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-m", "orchestrator.api"], env=environment)
    url = f"http://127.0.0.1:{port}"

    def alive() -> bool:
        try:
            return httpx2.get(f"{url}/livez").status_code == 200
        except httpx2.HTTPError:
            return False

    try:
        wait_until(alive, 60, "the API answers")
        yield process, url
    finally:
        process.kill()
        process.wait()


def test_threads_of_streams_are_not_held_while_they_wait(api: Api, url: str):
    """Sixty open streams leave room for ordinary requests: waiting takes no thread."""
    worker = Worker(api)
    opened = threading.Barrier(61, timeout=60)
    over = threading.Event()

    def hold(_: int) -> None:
        with stream(url, worker.job) as events:
            next(events)
            opened.wait()
            over.wait(60)

    with ThreadPoolExecutor(60) as pool:
        holders = [pool.submit(hold, n) for n in range(60)]
        opened.wait()
        answer = httpx2.get(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {ADMIN_KEY}"}, timeout=30)
        over.set()
        for holder in holders:
            holder.result(timeout=60)
    assert answer.status_code == 200
