"""The Python client: blocking, typed, retried where that is safe.

client = Client()                                    # STYLEFOUNDRY_URL and _API_KEY, else the stack on this machine
client.push_dataset("photos", "~/Pictures/2026")
job = client.submit("metastyle", "train", datasets={"content": "photos", "style": "paintings"}, name="meta")
for event in client.follow(job.id):
    print(event.event, event.body)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from stylefoundry import events, fetch, push
from stylefoundry.address import find_address
from stylefoundry.administration import Administration
from stylefoundry.comparisons import Comparisons
from stylefoundry.errors import JobFailed
from stylefoundry.pipelines import Fanouts, Sweeps, batch
from stylefoundry.reading import read
from stylefoundry.transport import Transport, segment
from stylefoundry.types import (
    Attempt,
    BatchItem,
    Checkpoint,
    Dataset,
    Estimate,
    Event,
    Job,
    Key,
    LogLine,
    Method,
    Model,
    Quota,
    Sample,
    Series,
    Tenant,
)

PATIENCE_S = 60.0
STYLIZE_S = 3600.0  # the service sets the limit


class Client:
    """One service, under one key. Safe to share between threads; close it or use it in a `with` block.

    url, api_key: default to STYLEFOUNDRY_URL and STYLEFOUNDRY_API_KEY, else to the embedded stack of `data_dir`
        (default: STYLEFOUNDRY_DATA_DIR, else `.stylefoundry`).
    patience_s: how long a request is tried anew while the service does not answer or is busy.

    Methods raise ApiError for what the service refuses, Unreachable when it does not answer.
    Raises NotConfigured when no address or key is known.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        data_dir: Path | str | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        address = find_address(url, api_key, data_dir)
        self.http = Transport(address.url, address.api_key, patience_s=patience_s)
        self.fanouts = Fanouts(self.http)
        self.sweeps = Sweeps(self.http)
        self.comparisons = Comparisons(self.http)
        self.admin = Administration(self.http)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    # --- methods ------------------------------------------------------------------------------------------------------

    def methods(self) -> list[Method]:
        """What can be trained."""
        return [read(Method, item) for item in self.http.pages("/v1/methods")]

    def method(self, slug: str) -> Method:
        return read(Method, self.http.get(f"/v1/methods/{segment(slug)}"))

    # --- datasets -----------------------------------------------------------------------------------------------------

    def push_dataset(
        self,
        name: str,
        folder: Path | str,
        kind: str = "images",
        *,
        wait: bool = True,
        progress: push.Progress | None = None,
    ) -> Dataset:
        """Make the pictures below `folder` a version of dataset `name`; what the service holds is not sent again.

        kind: `images`, or `labelled` where the subfolders are classes.
        wait: until the version is ready; its `refused` says which pictures could not be used, and why.
        progress: called with the stage (`hash`, `upload`, `ingest`), how much is done, of how much.

        Raises ValueError for a folder that cannot be pushed, Rejected when the service takes no version of it.
        """
        return push.push(self.http, name, Path(folder).expanduser(), kind=kind, wait_ready=wait, progress=progress)

    def datasets(self) -> list[Dataset]:
        return [read(Dataset, item) for item in self.http.pages("/v1/datasets")]

    def dataset(self, name: str, version: int | None = None) -> Dataset:
        """A version; the newest without a number."""
        which = "" if version is None else f"/versions/{version}"
        return read(Dataset, self.http.get(f"/v1/datasets/{segment(name)}{which}"))

    def delete_dataset(self, name: str, version: int) -> None:
        """One version, and the pictures that no other version lists."""
        self.http.request("DELETE", f"/v1/datasets/{segment(name)}/versions/{version}")

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(
        self,
        method: str,
        task: str,
        *,
        datasets: Mapping[str, str],
        style_image: str | None = None,
        base_model: str | None = None,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        publish_as: str | None = None,
        seed: int | None = None,
        tags: Mapping[str, str] | None = None,
        **others: Any,
    ) -> Job:
        """Queue a job.

        datasets: role -> `name`, `name@version` or `name@latest`. style_image: a path in the dataset `style`.
        base_model: `name`, `name@version` or `name@alias`. others: the remaining fields of a job, as `resources`,
        `depends_on`, `base_job` (the job that will publish the base model),
        `class`, `priority`, `deadline` (RFC 3339), `max_retries`, `timeout_s`, `keep_checkpoints`. What is None is left
        to the service's defaults.
        """
        given = _body(
            method, task, datasets=datasets, style_image=style_image, base_model=base_model, config=config, name=name,
            publish_as=publish_as, seed=seed, tags=tags, **others,
        )  # fmt: skip
        return read(Job, self.http.create("/v1/jobs", given))

    def estimate(self, method: str, task: str, *, datasets: Mapping[str, str], **others: Any) -> Estimate:
        """What such a job would take; the same fields as `submit`, nothing is submitted."""
        body = _body(method, task, datasets=datasets, **others)
        return read(Estimate, self.http.request("POST", "/v1/jobs:estimate", json=body).json())

    def batch(self, action: str, *, dry_run: bool = False, **filter: Any) -> Iterator[BatchItem]:
        """`cancel`, `pause`, `resume` or `retry` every job that `filter` names; what happened to each, as it does.

        filter: `ids`, `status`, `method`, `tags`, `q`, `fanout`, `sweep`; at least one. dry_run: only say what would.
        """
        return batch(self.http, action, {k: v for k, v in filter.items() if v}, dry_run=dry_run)

    def jobs(
        self,
        *,
        status: str | None = None,
        method: str | None = None,
        tag: str | None = None,
        q: str | None = None,
        fanout: str | None = None,
        sweep: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """The newest jobs, at most `limit`. tag: `key:value`. q: a part of the name. fanout, sweep: its id."""
        params = {
            "status": status, "method": method, "tag": tag, "q": q, "fanout": fanout, "sweep": sweep,
            "limit": min(limit, 200),
        }  # fmt: skip
        return [read(Job, item) for item in islice(self.http.pages("/v1/jobs", params), limit)]

    def delete_job(self, job_id: str) -> None:
        """One that has ended, with its history and checkpoints; its model has to be deleted before."""
        self.http.request("DELETE", _job(job_id))

    def job(self, job_id: str) -> Job:
        return read(Job, self.http.get(_job(job_id)))

    def cancel(self, job_id: str) -> Job:
        return read(Job, self.http.post(f"{_job(job_id)}/cancel"))

    def pause(self, job_id: str) -> Job:
        return read(Job, self.http.post(f"{_job(job_id)}/pause"))

    def resume(self, job_id: str) -> Job:
        return read(Job, self.http.post(f"{_job(job_id)}/resume"))

    def retry(self, job_id: str, *, start: str | None = None, config: Mapping[str, Any] | None = None) -> Job:
        """A new job from a finished one. start: `checkpoint` or `start`. config: settings to change."""
        body = {"from": start, "config": None if config is None else dict(config)}
        given = {field: value for field, value in body.items() if value is not None}
        return read(Job, self.http.create(f"{_job(job_id)}/retry", given))

    def follow(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """The job's events as they come, each once and in order, until it has ended; reconnects by itself.

        after: id of the newest event that is known already.
        """
        return events.follow(self.http, job_id, after, self.http.patience_s)

    def wait(self, job_id: str) -> Job:
        """Block until the job has ended, and return it. Raises JobFailed unless it succeeded."""
        for _ in self.follow(job_id):
            pass
        job = self.job(job_id)
        if job.status != "succeeded":
            raise JobFailed(job)
        return job

    def events(self, job_id: str) -> list[Event]:
        """The job's history so far."""
        return [events.event_of(item) for item in self.http.pages(f"{_job(job_id)}/events")]

    def metrics(
        self, job_id: str, name: str | None = None, *, from_step: int | None = None, max_points: int | None = None
    ) -> list[Series]:
        """Loss terms and speeds by step; above `max_points` (1,000) the service thins them out."""
        params = {"name": name, "from_step": from_step, "max_points": max_points}
        answer = self.http.get(f"{_job(job_id)}/metrics", params)
        return [Series(item["name"], [(int(step), value) for step, value in item["points"]]) for item in answer["data"]]

    def logs(self, job_id: str) -> list[LogLine]:
        return [read(LogLine, item) for item in self.http.pages(f"{_job(job_id)}/logs")]

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        return [read(Checkpoint, item) for item in self.http.pages(f"{_job(job_id)}/checkpoints")]

    def samples(self, job_id: str) -> list[Sample]:
        return [read(Sample, item) for item in self.http.pages(f"{_job(job_id)}/samples")]

    def attempts(self, job_id: str) -> list[Attempt]:
        return [read(Attempt, item) for item in self.http.pages(f"{_job(job_id)}/attempts")]

    # --- models -------------------------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """The newest version of every model."""
        return [read(Model, item) for item in self.http.pages("/v1/models")]

    def model(self, name: str, version: int | str = "latest") -> Model:
        """version: a number or an alias."""
        return read(Model, self.http.get(_model(name, version)))

    def fetch_model(
        self,
        name: str,
        version: int | str = "latest",
        folder: Path | str | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Download a model's files, checked against their digests; the folder appears when all are there.

        folder: default `{name}-{version}` here; fetching into it again only checks it.
        progress: called with the bytes that are there, of how many.
        Raises ValueError when the folder holds something else.
        """
        model = self.model(name, version)
        target = Path(folder).expanduser() if folder is not None else Path(f"{model.name}-{model.version}")
        return fetch.fetch(model, lambda: self.model(name, model.version), target, progress=progress)

    def stylize(
        self,
        name: str,
        content: Path | str,
        *,
        version: int | str = "latest",
        styles: Sequence[Path | str] = (),
        masks: Sequence[Path | str] = (),
        weights: Sequence[float] | None = None,
        labels: Sequence[tuple[Path | str, Path | str]] = (),
        init_image: Path | str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> bytes:
        """A picture in the model's style, as large as `content` unless `params` say a size.

        styles: pictures, for models of arbitrary styles; weights: a number for each. masks: gray pictures as large as
        `content`, one for each style, white where it goes. labels: PNGs over content and style, a pair for each
        style, for models that pair regions of the same colour. init_image: another picture of the content, for models
        that go on from one. params: the model's controls, as `{"strength": 0.5, "preserve_color": "luminance"}`,
        `format`: png (default), png16, jpeg or webp, and `maps`: true for a ZIP with what the method shows besides.
        """
        parts: list[tuple[str, Path | str]] = [("content", content)]
        parts += [("style", style) for style in styles] + [("mask", mask) for mask in masks]
        for content_labels, style_labels in labels:
            parts += [("content_labels", content_labels), ("style_labels", style_labels)]
        if init_image is not None:
            parts.append(("init_image", init_image))
        files: list[tuple[str, Any]] = [(part, (Path(path).name, Path(path).read_bytes())) for part, path in parts]
        told = dict(params or {}) | ({} if weights is None else {"weights": list(weights)})
        files.append(("params", (None, json.dumps(told))))
        timeout = httpx2.Timeout(STYLIZE_S, connect=5)
        return self.http.request("POST", f"{_model(name, version)}/stylize", files=files, timeout=timeout).content

    def delete_model(self, name: str, version: int) -> None:
        self.http.request("DELETE", _model(name, version))

    def delete_alias(self, name: str, alias: str) -> None:
        self.http.request("DELETE", f"/v1/models/{segment(name)}/aliases/{segment(alias)}")

    def set_alias(self, name: str, alias: str, version: int) -> Model:
        """Let `name@alias` mean this version."""
        where = f"/v1/models/{segment(name)}/aliases/{segment(alias)}"
        self.http.request("PUT", where, json={"version": version})
        return self.model(name, alias)

    # --- keys, for managers and administrators ------------------------------------------------------------------------

    def keys(self) -> list[Key]:
        return [read(Key, item) for item in self.http.pages("/v1/keys")]

    def create_key(
        self,
        name: str,
        *,
        tenant: str | None = None,
        admin: bool = False,
        scopes: Sequence[str] | None = None,
        expires_in_s: int | None = None,
    ) -> Key:
        """A new key, in full only in this answer. tenant: made where it is new; default: the caller's own.

        scopes: of `read`, `submit`, `write`, `stylize` (these four where nothing is said), `manage` and `admin`.
        """
        body = {
            "name": name,
            "admin": admin,
            "tenant": tenant,
            "scopes": None if scopes is None else list(scopes),
            "expires_in_s": expires_in_s,
        }
        return read(Key, self.http.create("/v1/keys", {k: value for k, value in body.items() if value is not None}))

    def revoke_key(self, key_id: str) -> None:
        self.http.post(f"/v1/keys/{segment(key_id)}/revoke")

    # --- tenants ------------------------------------------------------------------------------------------------------

    def quota(self) -> Quota:
        """What this key's tenant may have of the cluster, and has."""
        return read(Quota, self.http.get("/v1/quota"))

    def tenants(self) -> list[Tenant]:
        """All tenants; for administrators."""
        return [read(Tenant, item) for item in self.http.pages("/v1/tenants")]

    def change_tenant(self, name: str, **values: Any) -> Tenant:
        """Set what a tenant may use (for administrators): `weight`, `max_cpus`, `max_gpus`, `max_queued`, `classes`, …

        None takes a limit away; what is not named stays.
        """
        return read(Tenant, self.http.request("PATCH", f"/v1/tenants/{segment(name)}", json=dict(values)).json())


def _job(job_id: str) -> str:
    return f"/v1/jobs/{segment(job_id)}"


def _model(name: str, version: int | str) -> str:
    return f"/v1/models/{segment(name)}/versions/{segment(version)}"


def _body(
    method: str,
    task: str,
    *,
    datasets: Mapping[str, str],
    base_model: str | None = None,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """A job as the service reads it; what is None is left out."""
    body = {
        "method": method,
        "task": task,
        "datasets": {role: _pinned(reference) for role, reference in datasets.items()},
        "base_model": None if base_model is None else _pinned(base_model),
        "config": None if config is None else dict(config),
        "tags": None if tags is None else dict(tags),
        **others,
    }
    return {field: value for field, value in body.items() if value is not None}


def _pinned(reference: str) -> str:
    """`photos` means `photos@latest`."""
    return reference if "@" in reference else f"{reference}@latest"
