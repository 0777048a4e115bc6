"""Webhooks: noted with the change, sent signed to public addresses alone, tried again, given up, sent again."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator.dispatch import outbound
from orchestrator.dispatch.webhooks import Postman
from orchestrator.settings import Settings
from orchestrator.states import Move
from orchestrator.store import claims, queue, webhooks
from orchestrator.store.database import db_now
from orchestrator.store.tables import WebhookDelivery, WebhookSecret
from orchestrator.store.webhooks import BACKOFF_S, Outcome
from tests.orchestrator.conftest import Api, pointers, problem, small_job
from tests.waiting import wait_until

PUBLIC = "https://hooks.example/x"


class Received:
    """What came in, and what is answered."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []  # statuses, then 200
        self.before_answer: Callable[[], object] = lambda: None
        self.url = ""


@contextmanager
def receiver() -> Iterator[Received]:
    """A server on loopback that notes every POST."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
            received.before_answer()
            self.send_response(received.answers.pop(0) if received.answers else 200)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}/hook?a=b"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_private": True})


@pytest.fixture
def secret(api: Api) -> str:
    """The administrator's tenant can sign."""
    answer = api.post("/v1/webhooks/secret")
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made: str = answer.json()["secret"]
    assert made.startswith("whsec_")
    return made


def signed_right(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As a receiver checks it, by the text of Standard Webhooks."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode() + b"." + body
    expected = "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return expected in headers["webhook-signature"].split(" ")


def deliveries(api: Api, **filters: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/v1/webhooks/deliveries", params=filters).json()["data"]
    return found


def due_now(api: Api) -> None:
    with api.db.write() as tx:
        tx.execute(update(WebhookDelivery).values(next_at=db_now() - 1))


def cancelled(api: Api, **webhook: Any) -> str:
    """A job whose end is to be told."""
    job_id: str = api.job(webhook=webhook)["id"]
    assert api.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    return job_id


# --- what is noted ----------------------------------------------------------------------------------------------------


def test_a_job_shows_its_webhook_and_is_told_of_its_end_where_nothing_else_is_said(api: Api, secret: str):
    job = api.job(webhook=PUBLIC)
    assert job["webhook"] == {"url": PUBLIC, "events": ["succeeded", "failed", "cancelled", "expired"]}
    assert api.get(f"/v1/jobs/{job['id']}").json()["webhook"] == job["webhook"]
    api.post(f"/v1/jobs/{job['id']}/pause")
    assert deliveries(api) == []
    api.post(f"/v1/jobs/{job['id']}/cancel")
    (told,) = deliveries(api)
    assert (told["job_id"], told["event"], told["status"], told["tries"]) == (job["id"], "job.cancelled", "pending", 0)
    assert api.post(f"/v1/jobs/{job['id']}/retry").json()["webhook"] == job["webhook"]


def test_every_status_that_was_asked_for_is_noted_with_its_event(api: Api, secret: str):
    api.room(cpus=4)
    job = api.job(webhook={"url": PUBLIC, "events": ["starting", "running", "succeeded"]})["id"]
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="d", lease_s=60)
        assert claimed is not None
    with api.db.write() as tx:
        queue.begin(tx, claimed.ticket, actor="a", node="n", pid=1, resumed_from=0, total_steps=20, lease_s=60)
    with api.db.write() as tx:
        assert queue.finish(tx, claimed.ticket, None) is not None
    with api.db.read() as tx:
        rows = tx.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)).all()
    events = api.get(f"/v1/jobs/{job}/events").json()["data"]
    assert [row.event for row in rows] == ["job.starting", "job.running", "job.succeeded"]
    assert [row.data["event"] for row in rows] == [event["id"] for event in events[1:]]
    assert rows[2].data["status"] == events[3]["status"] == "succeeded"


def test_a_change_that_is_rolled_back_is_not_told(api: Api, secret: str):
    class Failed(Exception):
        pass

    job = api.job(webhook=PUBLIC)["id"]

    def cancel_and_fail() -> None:
        with api.db.write() as tx:
            assert queue.move(tx, job, Move.CANCEL) is not None
            raise Failed

    with pytest.raises(Failed):
        cancel_and_fail()
    assert deliveries(api) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_cannot_be_told_is_refused_with_the_field(api: Api, secret: str):
    for webhook, pointer in (
        ("ftp://example.com/x", "/webhook/url"),
        ({"url": "https://user:word@example.com/"}, "/webhook/url"),
        ({"url": PUBLIC, "events": ["finished"]}, "/webhook/events/0"),
        ({"url": PUBLIC, "events": []}, "/webhook/events"),
        ({"url": PUBLIC, "secret": "x"}, "/webhook/secret"),
        (7, "/webhook"),
    ):
        assert pointers(api.post("/v1/jobs", small_job(webhook=webhook))) == [pointer]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_a_secret_there_is_no_webhook(api: Api):
    answer = api.post("/v1/jobs", small_job(webhook=PUBLIC))
    assert pointers(answer) == ["/webhook"]
    assert "/v1/webhooks/secret" in answer.json()["detail"]


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_it_arrives_signed_once_and_is_not_sent_again(api: Api, settings: Settings, secret: str):
    with receiver() as received, Postman(settings, api.db).at_work():
        job = cancelled(api, url=received.url)
        wait_until(lambda: deliveries(api, status="delivered"), 30, "it is delivered")
    ((headers, body),) = received.requests
    (told,) = deliveries(api, job=job)
    assert headers["webhook-id"] == told["id"]
    assert signed_right(headers, body, secret)
    assert not signed_right(headers, body + b" ", secret)
    assert headers["host"] in received.url
    document = json.loads(body)
    assert document["type"] == "job.cancelled"
    assert (document["data"]["job"], document["data"]["status"]) == (job, "cancelled")
    assert (told["answer"], told["error"], told["tries"]) == (200, None, 1)


def test_two_dispatchers_send_each_delivery_once(api: Api, settings: Settings, secret: str):
    with receiver() as received:
        for _ in range(6):
            cancelled(api, url=received.url)
        with Postman(settings, api.db).at_work(), Postman(settings, api.db).at_work():
            wait_until(lambda: len(deliveries(api, status="delivered")) == 6, 60, "all are delivered")
    assert len({headers["webhook-id"] for headers, _ in received.requests}) == len(received.requests) == 6


def test_a_rotated_secret_signs_beside_the_new_one_for_a_while(api: Api, settings: Settings, secret: str):
    newer = api.post("/v1/webhooks/secret", {"overlap_s": 600}).json()["secret"]
    with receiver() as received, Postman(settings, api.db).at_work():
        cancelled(api, url=received.url)
        wait_until(lambda: len(received.requests) == 1, 30, "the first has come")
        with api.db.write() as tx:
            tx.execute(update(WebhookSecret).where(WebhookSecret.secret == secret).values(expires_at=db_now() - 1))
        cancelled(api, url=received.url)
        wait_until(lambda: len(received.requests) == 2, 30, "the second has come")
    both, later = received.requests
    assert (signed_right(*both, newer), signed_right(*both, secret)) == (True, True)
    assert (signed_right(*later, newer), signed_right(*later, secret)) == (True, False)


def test_a_failure_is_tried_again_later_and_in_the_end_given_up(api: Api, settings: Settings, secret: str):
    with receiver() as received, Postman(settings, api.db).at_work():
        received.answers = [500] * (len(BACKOFF_S) + 1)
        cancelled(api, url=received.url)
        for number in range(1, len(BACKOFF_S) + 2):
            wait_until(lambda: deliveries(api)[0]["error"], 30, "it failed")
            assert deliveries(api)[0]["tries"] == number
            with api.db.read() as tx:
                (row,) = tx.execute(select(WebhookDelivery.next_at - db_now(), WebhookDelivery.status)).all()
            if number <= len(BACKOFF_S):
                assert row[1] == "pending"
                assert BACKOFF_S[number - 1] - 30 < row[0] <= BACKOFF_S[number - 1] * 1.2
                with api.db.write() as tx:
                    tx.execute(update(WebhookDelivery).values(next_at=db_now() - 1, error=None))
        (dead,) = deliveries(api, status="dead")
        assert (dead["tries"], dead["answer"]) == (len(BACKOFF_S) + 1, 500)
        assert "500" in dead["error"]
        again = api.post(f"/v1/webhooks/deliveries/{dead['id']}/redeliver").json()
        assert (again["id"], again["status"], again["tries"]) == (dead["id"], "pending", 0)
        wait_until(lambda: deliveries(api, status="delivered"), 30, "it is delivered after all")
    assert len({headers["webhook-id"] for headers, _ in received.requests}) == 1
    assert len({body for _, body in received.requests}) == 1, "the same bytes at every try"
    problem(api.post("/v1/webhooks/deliveries/delivery_x/redeliver"), 404)


def test_a_slow_receiver_delays_nobody_elses(api: Api, stranger: Api, settings: Settings, secret: str):
    chief = api.post("/v1/keys", {"name": "chief", "tenant": "other", "admin": True}).json()["key"]
    other = Api(api.client, chief, api.db, api.objects)
    other.add_dataset("photos")
    other.add_dataset("paintings")
    assert other.post("/v1/webhooks/secret").status_code == 201
    held = threading.Event()
    with receiver() as slow, receiver() as quick:
        slow.before_answer = lambda: held.wait(60)
        for _ in range(5):
            cancelled(api, url=slow.url)
        with Postman(settings, api.db).at_work():
            wait_until(lambda: len(slow.requests) >= 4, 30, "the slow one is busy")
            cancelled(other, url=quick.url)
            wait_until(lambda: deliveries(other, status="delivered"), 30, "the other tenant's is delivered")
            assert not deliveries(api, status="delivered")
            held.set()


# --- outcomes of a try ------------------------------------------------------------------------------------------------

SECRETS = ["whsec_" + base64.b64encode(b"k" * 32).decode()]


def tried(url: str, *, private: bool = True, whole_s: float = 10.0) -> Outcome:
    return outbound.post(url, "delivery_1", b"{}", SECRETS, private=private, whole_s=whole_s)


def test_the_signature_is_that_of_the_standards_own_example():
    """https://github.com/standard-webhooks: libraries/python/tests, `test_sign_function`."""
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = outbound.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_redirects_are_failures_and_gone_is_final():
    with receiver() as received:
        received.answers = [302, 307, 410, 204]
        outcomes = [tried(received.url) for _ in range(4)]
    assert [outcome.answer for outcome in outcomes] == [302, 307, 410, 204]
    assert [outcome.error is None for outcome in outcomes] == [False, False, False, True]
    assert [outcome.final for outcome in outcomes] == [False, False, True, False]
    assert len(received.requests) == 4, "nobody went elsewhere"


def test_what_is_not_there_or_is_no_http_is_an_outcome():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert tried(f"http://127.0.0.1:{port}/").error is not None
    assert "no address" in str(tried("http://no-such-host.invalid/").error)
    with receiver() as received:
        assert "SSL" in str(tried(received.url.replace("http:", "https:")).error)


@pytest.mark.parametrize(
    ("first", "then", "answer"), [(b"HTTP/1.1 ", b"2", None), (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 200)]
)
def test_an_answer_that_trickles_in_is_cut_off(first: bytes, then: bytes, answer: int | None):
    """Each byte comes before the time limit of any read: only the limit over all ends it."""
    over = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(first)
            while not over.wait(0.05):
                connection.sendall(then)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,))
        thread.start()
        outcome = tried(f"http://127.0.0.1:{server.getsockname()[1]}/", whole_s=0.5)
        over.set()
        thread.join(10)
    assert (outcome.answer, outcome.error is None) == (answer, answer is not None)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_delivery_that_was_sent_again_meanwhile_keeps_its_new_state(api: Api, secret: str):
    cancelled(api, url=PUBLIC)
    with api.db.write() as tx:
        (due,) = webhooks.claim_due(tx, limit=10, hold_s=60)
        assert webhooks.claim_due(tx, limit=10, hold_s=60) == []
    api.post(f"/v1/webhooks/deliveries/{due.id}/redeliver")
    with api.db.write() as tx:
        webhooks.conclude(tx, due, Outcome(500, "late"))
    (now,) = deliveries(api)
    assert (now["status"], now["tries"], now["error"]) == ("pending", 0, None)


def test_ended_deliveries_go_after_their_time(api: Api, secret: str):
    cancelled(api, url=PUBLIC)
    cancelled(api, url=PUBLIC)
    with api.db.write() as tx:
        (first, _) = webhooks.claim_due(tx, limit=10, hold_s=60)
        webhooks.conclude(tx, first, Outcome(200, None))
        webhooks.forget_ended(tx, age_s=3600)
        assert len(webhooks.page(tx, api.tenant, status=None, job=None, before=None, limit=9)) == 2
        webhooks.forget_ended(tx, age_s=-1)
        assert [d.status for d in webhooks.page(tx, api.tenant, status=None, job=None, before=None, limit=9)] == [
            "pending"
        ]


# --- where it may go --------------------------------------------------------------------------------------------------


class TestOnTheInternet:
    """The setting `webhook_private` is off, as by default."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"webhook_private": False})

    @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
    def test_an_address_inside_is_refused_at_submit(self, api: Api, secret: str):
        for url in ("http://127.0.0.1:6379/", "http://169.254.169.254/latest", "http://[::1]/", "http://localhost/"):
            answer = api.post("/v1/jobs", small_job(webhook=url))
            assert pointers(answer) == ["/webhook/url"], url

    @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
    def test_and_again_when_it_is_connected_to(self, api: Api, settings: Settings, secret: str):
        with receiver() as received:
            cancelled(api, url=PUBLIC)
            with api.db.write() as tx:
                tx.execute(update(WebhookDelivery).values(url=received.url))
            with Postman(settings, api.db).at_work():
                wait_until(lambda: deliveries(api)[0]["error"], 30, "it was tried")
        assert received.requests == []
        assert "no address of the internet" in deliveries(api)[0]["error"]
