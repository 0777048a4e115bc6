"""One action on many jobs, on both databases."""

from __future__ import annotations

from typing import Any

from orchestrator.ids import new_id
from tests.orchestrator.conftest import Api, pointers
from tests.orchestrator.test_dependencies_api import begin, fail, shown


def batch(api: Api, action: str, filter: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = api.post("/v1/jobs:batch", {"action": action, "filter": filter} | more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_dry_run_says_what_would_happen_and_changes_nothing(api: Api):
    running, queued, other = api.job(tags={"k": "a"}), api.job(tags={"k": "a"}), api.job(tags={"k": "b"})
    begin(api, running["id"])
    would = batch(api, "cancel", {"tags": {"k": "a"}}, dry_run=True)
    assert [(item["id"], item["before"], item["after"], item["outcome"]) for item in would["data"]] == [
        (queued["id"], "queued", "cancelled", "changed"),
        (running["id"], "running", "cancelling", "changed"),
    ]
    assert [shown(api, job["id"])["status"] for job in (running, queued, other)] == ["running", "queued", "queued"]
    did = batch(api, "cancel", {"tags": {"k": "a"}})
    assert did["data"] == would["data"]
    assert [shown(api, job["id"])["status"] for job in (running, queued, other)] == [
        "cancelling",
        "cancelled",
        "queued",
    ]


def test_jobs_named_by_id_are_all_answered_for(api: Api, stranger: Api):
    paused, queued, ended = (api.job()["id"] for _ in range(3))
    api.post(f"/v1/jobs/{paused}/pause")
    api.post(f"/v1/jobs/{ended}/cancel")
    unknown = new_id("job")
    answer = batch(api, "pause", {"ids": [paused, queued, ended, unknown]})["data"]
    assert {item["id"]: item["outcome"] for item in answer} == {
        paused: "unchanged",
        queued: "changed",
        ended: "refused",
        unknown: "not_found",
    }
    assert [item["outcome"] for item in batch(stranger, "cancel", {"ids": [queued]})["data"]] == ["not_found"]
    assert shown(api, queued)["status"] == "paused"


def test_what_failed_is_done_again_once(api: Api):
    first, second, fine = (api.job(name=f"run-{n}")["id"] for n in range(3))
    fail(api, first)
    fail(api, second)
    filter = {"q": "run-"}
    would = batch(api, "retry", filter, dry_run=True)["data"]
    assert [(item["id"], item["after"], item["retried_as"]) for item in would] == [
        (second, "queued", None),
        (first, "queued", None),
    ]
    did = batch(api, "retry", filter)["data"]
    assert [shown(api, item["retried_as"])["parent"] for item in did] == [second, first]
    assert batch(api, "retry", filter)["data"] == []
    (again,) = batch(api, "retry", {"ids": [first]})["data"]
    assert (again["outcome"], again["detail"]) == ("refused", f"it was done again as {did[1]['retried_as']}")
    assert shown(api, fine)["status"] == "queued"


def test_pages_go_on_where_the_last_one_ended(api: Api):
    made = [api.job()["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = batch(api, "cancel", {"method": "metastyle"}, limit=2, cursor=cursor)
        seen += [item["id"] for item in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    assert {shown(api, job_id)["status"] for job_id in made} == {"cancelled"}


def test_every_job_is_never_meant_by_saying_nothing(api: Api):
    assert pointers(api.post("/v1/jobs:batch", {"action": "cancel", "filter": {}})) == ["/filter"]
    assert pointers(api.post("/v1/jobs:batch", {"action": "burn", "filter": {"q": "a"}})) == ["/action"]
    two = {"fanout": new_id("fanout"), "sweep": new_id("sweep")}
    assert pointers(api.post("/v1/jobs:batch", {"action": "cancel", "filter": two})) == ["/filter/sweep"]
    assert batch(api, "cancel", {"status": ["succeeded"]})["data"] == []
