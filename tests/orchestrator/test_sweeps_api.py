"""Sweeps over REST, on both databases: trials made, compared, promoted, stopped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

from orchestrator.store import claims, queue
from orchestrator.store.database import db_now
from orchestrator.store.queue import Batch
from orchestrator.store.tables import Job, ModelVersion
from tests.orchestrator.conftest import Api, pointers, problem, small_job
from tests.orchestrator.test_dependencies_api import draw, shown

JOB = small_job(name="tuned", config={"steps": 40, "encoder": "random", "width": 4})
ASHA: dict[str, Any] = {
    "job": JOB, "strategy": "asha", "trials": 5, "metric": "loss",
    "space": {"lr": {"low": 1e-4, "high": 1.0, "log": True}},
    "asha": {"min_steps": 10, "reduction": 2},
}  # fmt: skip


def sweep(api: Api, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v1/sweeps", ASHA | changes)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def now(api: Api, sweep_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/sweeps/{sweep_id}").json()
    return found


def work(api: Api, loss: dict[int, float], *, metric: str = "loss") -> dict[str, Any]:
    """A worker does the first job of the queue: its loss is that of its trial, less a little for each step."""
    api.room(cpus=100)
    with api.db.write() as tx:
        claimed = claims.claim_next(tx, owner="d", lease_s=15)
        assert claimed is not None
        ticket = claimed.ticket
        job = tx.get_one(Job, ticket.job_id)
        start = job.step
        done: dict[str, Any] = {"actor": "run", "node": "n", "pid": 1, "lease_s": 15.0}
        assert queue.begin(tx, ticket, resumed_from=start, total_steps=job.total_steps, **done) is not None
    trial = job.trial
    assert trial is not None
    points = [(step, loss[trial] - step / 1000) for step in range(start + 1, job.total_steps + 1)]
    made = {"step": job.total_steps, "prefix": f"p/{job.id}", "manifest_sha256": "0", "files": [], "bytes": 1}
    with api.db.write() as tx:
        queue.record(tx, ticket, Batch(job.total_steps, None, {metric: points}, (), [made]), lease_s=15.0)
    with api.db.write() as tx:
        model = ModelVersion(
            tenant_id=api.tenant, name=job.publish_as, version=0, job_id=job.id, method=job.method, task=job.task,
            prefix=f"m/{job.id}", files=[], config=job.config, lineage={}, created_at=db_now(),
        )  # fmt: skip
        assert queue.finish(tx, ticket, model) is not None
    return shown(api, job.id)


def test_a_grid_is_a_job_for_every_combination(api: Api):
    made = sweep(api, strategy="grid", space={"lr": [0.1, 0.01], "width": [4, 8]}, trials=None, asha=None)
    assert [trial["params"] for trial in made["trials"]] == [
        {"lr": lr, "width": width} for lr in (0.1, 0.01) for width in (4, 8)
    ]
    assert (made["jobs"], made["counts"], made["rungs"]) == (4, {"queued": 4}, [])
    jobs = api.get("/v1/jobs", params={"sweep": made["id"]}).json()["data"][::-1]
    assert [(job["config"]["lr"], job["config"]["width"], job["config"]["steps"]) for job in jobs] == [
        (0.1, 4, 40), (0.1, 8, 40), (0.01, 4, 40), (0.01, 8, 40),
    ]  # fmt: skip
    assert [job["publish_as"] for job in jobs] == [f"tuned-{n}" for n in (1, 2, 3, 4)]
    for _ in jobs:
        work(api, {1: 4.0, 2: 1.0, 3: 3.0, 4: 2.0})
    done = now(api, made["id"])
    assert (done["phase"], done["best"]["number"], done["best"]["model"]) == ("terminal", 2, "tuned-2@1")
    assert abs(done["best"]["value"] - (1.0 - 38.5 / 1000)) < 1e-9, "the mean over steps 37 to 40"


def test_a_comparison_over_settings_and_seeds_is_one_grid(api: Api):
    """The example of docs/pipelines.md."""
    job = {
        "method": "srm", "task": "train", "name": "norms", "style_image": "starry.jpg",
        "datasets": {"content": "photos", "style": "paintings"}, "config": {"encoder": "random", "steps": 40},
    }  # fmt: skip
    space = {"norm": ["bn", "in"], "recalibration": ["none", "se", "srm"], "seed": [0, 1, 2]}
    made = sweep(api, job=job, strategy="grid", space=space, metric="style_loss", trials=None, asha=None)
    assert made["jobs"] == 18
    jobs = api.get("/v1/jobs", params={"sweep": made["id"]}).json()["data"]
    found = {(job["config"]["norm"], job["config"]["recalibration"], job["seed"]) for job in jobs}
    assert found == set(product(*space.values()))
    wrong = api.post("/v1/sweeps", {**ASHA, "job": job, "space": {"seed": ["one"]}, "strategy": "random", "asha": None})
    assert pointers(wrong) == ["/space/seed/0"]


def test_random_trials_follow_the_seed(api: Api):
    random = {"strategy": "random", "asha": None, "metric": None}
    drawn = [[t["params"] for t in sweep(api, **random, seed=seed)["trials"]] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({t["lr"] for t in drawn[0]}) == 5


def test_asha_lets_the_best_go_on_from_their_checkpoints_and_stops_the_others(api: Api):
    made = sweep(api)
    assert made["rungs"] == [10, 20, 40]
    loss = {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 3.0}
    first = [work(api, loss) for _ in range(5)]
    assert [(job["trial"], job["config"]["steps"], job["rung"]) for job in first] == [(n, 10, 0) for n in range(1, 6)]
    draw(api.db)
    half = now(api, made["id"])
    assert {t["number"]: t["rung"] for t in half["trials"]} == {1: 0, 2: 1, 3: 0, 4: 1, 5: 0}
    assert {t["number"]: t["status"] for t in half["trials"]} == {
        1: "stopped", 2: "queued", 3: "stopped", 4: "queued", 5: "stopped",
    }  # fmt: skip
    assert half["trials"][0]["reason"] == "place 5 of 5 by loss at step 10"
    second = shown(api, half["trials"][1]["job"])
    assert (second["parent"], second["progress"]["step"], second["progress"]["total_steps"]) == (first[1]["id"], 10, 20)
    for _ in range(2):
        work(api, loss)
        draw(api.db)
    work(api, loss)
    draw(api.db)
    done = now(api, made["id"])
    assert (done["phase"], done["best"]["number"], done["best"]["rung"]) == ("terminal", 2, 2)
    assert [t["status"] for t in done["trials"]] == ["stopped", "succeeded", "stopped", "stopped", "stopped"]
    assert len(done["best"]["values"]) == 3
    assert done["jobs"] == 8


def test_a_trial_done_again_stays_in_the_sweep_unless_its_settings_change(api: Api):
    made = sweep(api, trials=2)
    first = work(api, {1: 1.0, 2: 2.0})["id"]
    longer = api.post(f"/v1/jobs/{first}/retry", {"config": {"steps": 15}}).json()
    assert (longer["sweep"], longer["trial"], longer["rung"]) == (None, None, None)
    assert now(api, made["id"])["jobs"] == 2
    second = now(api, made["id"])["trials"][1]["job"]
    api.post(f"/v1/jobs/{second}/cancel")
    again = api.post(f"/v1/jobs/{second}/retry").json()
    assert (again["sweep"], again["trial"], again["rung"]) == (made["id"], 2, 0)
    assert now(api, made["id"])["trials"][1]["job"] == again["id"]
    assert now(api, made["id"])["jobs"] == 2


def test_a_sweep_is_decided_once_however_many_dispatchers_decide(api: Api):
    made = sweep(api, trials=8, asha={"min_steps": 10, "reduction": 2})
    for _ in range(8):
        work(api, {n: float(n) for n in range(1, 9)})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(draw, [api.db] * 4))
    rungs = [(job["trial"], job["rung"]) for job in api.get("/v1/jobs", params={"sweep": made["id"]}).json()["data"]]
    assert sorted(rungs) == sorted([(n, 0) for n in range(1, 9)] + [(n, 1) for n in range(1, 5)])


def test_a_trial_that_goes_on_comes_before_those_that_have_not_begun(api: Api):
    sweep(api)
    loss = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0}
    work(api, loss)
    work(api, loss)
    draw(api.db)
    third = work(api, loss)
    assert (third["trial"], third["rung"]) == (1, 1)


def test_a_cancelled_sweep_makes_no_more_jobs(api: Api):
    made = sweep(api)
    loss = {n: float(n) for n in range(1, 6)}
    work(api, loss)
    work(api, loss)
    cancelled = api.post(f"/v1/sweeps/{made['id']}/cancel").json()
    draw(api.db)
    assert cancelled["counts"] == {"cancelled": 3, "succeeded": 2}
    after = now(api, made["id"])
    assert after["jobs"] == 5
    assert after["trials"][0]["reason"] == "the sweep was cancelled"


def test_trials_without_the_metric_are_stopped_and_say_so(api: Api):
    made = sweep(api, trials=2)
    work(api, {1: 1.0, 2: 2.0}, metric="other")
    work(api, {1: 1.0, 2: 2.0}, metric="other")
    draw(api.db)
    assert [t["reason"] for t in now(api, made["id"])["trials"]] == ["it has no metric 'loss' at step 10"] * 2


def test_what_cannot_be_used_is_named(api: Api):
    unusable: list[tuple[dict[str, Any], str]] = [
        ({"space": {}}, "/space"),
        ({"space": {"nonsense": [1]}}, "/space/nonsense"),
        ({"space": {"lr": {"low": 2, "high": 1}}}, "/space/lr/high"),
        ({"space": {"lr": {"low": 0, "high": 1, "log": True}}}, "/space/lr/low"),
        ({"space": {"lr": {"low": 0}}}, "/space/lr/high"),
        ({"space": {"lr": [0.1, "fast"]}}, "/space/lr/1"),
        ({"space": {"lr": 0.1}}, "/space/lr"),
        ({"space": {"encoder": {"low": 0, "high": 1}}}, "/space/encoder"),
        ({"space": {"steps": [1, 2]}}, "/space/steps"),
        ({"trials": None}, "/trials"),
        ({"trials": 1001}, "/trials"),
        ({"metric": None}, "/metric"),
        ({"asha": None}, "/asha"),
        ({"asha": {"min_steps": 41}}, "/asha/min_steps"),
        ({"strategy": "random"}, "/asha"),
        ({"strategy": "grid", "asha": None, "trials": None}, "/space/lr"),
        ({"strategy": "grid", "asha": None, "trials": None, "space": {"lr": [0.1] * 1000, "width": [4, 8]}}, "/space"),
        ({"job": JOB | {"method": "none"}}, "/job/method"),
        ({"job": JOB | {"config": {"batch_size": 0, "encoder": "random"}}}, "/job/config/batch_size"),
        ({"job": JOB | {"method": "wct", "datasets": {"content": "photos"}}}, "/strategy"),
    ]
    told = [pointers(api.post("/v1/sweeps", ASHA | changes))[:1] for changes, _ in unusable]
    assert told == [[pointer] for _, pointer in unusable]
    assert api.get("/v1/sweeps").json()["data"] == []


def test_sweeps_are_a_tenants_own_and_a_key_makes_one_once(api: Api, stranger: Api):
    answers = [api.post("/v1/sweeps", ASHA, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2)]
    assert answers[0] == answers[1]
    (listed,) = api.get("/v1/sweeps").json()["data"]
    assert listed["id"] == answers[0]
    problem(stranger.get(f"/v1/sweeps/{answers[0]}"), 404)
    problem(stranger.post(f"/v1/sweeps/{answers[0]}/cancel"), 404)
    assert stranger.get("/v1/sweeps").json()["data"] == []
