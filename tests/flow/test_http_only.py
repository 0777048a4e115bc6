"""The whole flow for somebody who has only an address, a key and /openapi.json."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import httpx2
from botocore.config import Config
from jsonschema import Draft202012Validator

from orchestrator.settings import Settings
from tests import images
from tests.conftest import Bucket
from tests.serving import serving, working
from tests.waiting import wait_until

TOY = {
    "steps": 4,
    "encoder": "random",
    "width": 4,
    "res_blocks": 1,
    "content_size": 32,
    "style_size": 32,
    "batch_size": 1,
    "meta_batch": 1,
    "checkpoint_every": 2,
    "onnx": False,
}
ADAPT = {"steps": 3, "content_size": 32, "style_size": 32, "batch_size": 1, "checkpoint_every": 2}


class Described:
    """Knows operations by their place in /openapi.json, and holds every answer against it."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        self.document: dict[str, Any] = self.http.get("/openapi.json").json()

    def close(self) -> None:
        self.http.close()

    def call(self, verb: str, path: str, /, *, json: Any = None, files: Any = None, **names: str) -> httpx2.Response:
        operation = self.document["paths"][path][verb]
        answer = self.http.request(verb.upper(), path.format(**names), json=json, files=files)
        described = operation["responses"].get(str(answer.status_code))
        assert described is not None, f"{verb} {path} answered {answer.status_code}: {answer.text}"
        content = described.get("content", {}).get("application/json")
        if content is not None:
            schema = content["schema"] | {"components": self.document["components"]}
            Draft202012Validator(schema).validate(answer.json())
        return answer

    def push(self, name: str, pictures: Mapping[str, bytes]) -> dict[str, Any]:
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in pictures.items()}
        wanted = [{"path": p, "size": len(data), "sha256": digests[p]} for p, data in pictures.items()]
        planned = self.call("post", "/v1/datasets/{name}/uploads", json={"files": wanted}, name=name).json()["files"]
        for place in planned:
            if "url" not in place:  # the service has this picture already
                continue
            put = httpx2.put(place["url"], content=pictures[place["path"]], headers=place["headers"])
            assert put.status_code == 200
        listed = {"kind": "images", "files": [{"path": p, "sha256": d} for p, d in digests.items()]}
        answer = self.call("post", "/v1/datasets/{name}/versions", json=listed, name=name)
        assert answer.status_code == 202

        def ready() -> dict[str, Any] | None:
            seen: dict[str, Any] = self.call("get", "/v1/datasets/{name}", name=name).json()
            return seen if seen["status"] != "ingesting" else None

        return wait_until(ready, 60, f"{name} is ingested")

    def train(self, job: dict[str, Any]) -> dict[str, Any]:
        submitted = self.call("post", "/v1/jobs", json=job)
        assert submitted.status_code == 201
        job_id = submitted.json()["id"]

        def ended() -> dict[str, Any] | None:
            seen: dict[str, Any] = self.call("get", "/v1/jobs/{id}", id=job_id).json()
            return seen if seen["phase"] == "terminal" else None

        return wait_until(ended, 120, f"{job['name']} has ended")


def test_a_plain_http_client_gets_from_pictures_to_a_stylised_picture(settings: Settings, s3: Bucket):
    with serving(settings) as url, working(settings, warm=True):
        assert settings.admin_key is not None
        from_pictures_to_a_stylised_picture(url, settings.admin_key.get_secret_value(), s3)


def from_pictures_to_a_stylised_picture(url: str, key: str, bucket: Bucket) -> None:
    """Push, train, adapt, fetch and draw. bucket: where the service keeps what it has."""
    with closing(Described(url, key)) as api:
        assert api.push("flow-photos", {f"{n}.jpg": images.jpeg(48, 40, seed=n) for n in range(4)})["count"] == 4
        assert api.push("flow-paintings", {f"{n}.png": images.png(40, 40, seed=50 + n) for n in range(2)})["count"] == 2

        datasets = {"content": "flow-photos", "style": "flow-paintings@1"}
        meta = {"method": "metastyle", "task": "train", "name": "meta", "config": TOY, "datasets": datasets}
        assert api.train(meta)["status"] == "succeeded"
        starry = meta | {"task": "adapt", "name": "starry", "config": ADAPT, "base_model": "meta@latest"}
        job = api.train(starry | {"style_image": "0.png"})
        assert (job["status"], job["model"]) == ("succeeded", "starry@1")
        for part in ("events", "metrics", "logs", "checkpoints", "samples", "attempts"):
            assert api.call("get", f"/v1/jobs/{{id}}/{part}", id=job["id"]).json()["data"], part

        model = api.call("get", "/v1/models/{name}/versions/{version}", name="starry", version="latest").json()
        _assert_fetchable(api, model, bucket)
        picture = api.call(
            "post",
            "/v1/models/{name}/versions/{version}/stylize",
            files={"content": ("photo.jpg", images.jpeg(50, 34, seed=99), "image/jpeg")},
            name="starry",
            version="1",
        )
        assert picture.headers["content-type"] == "image/png"
        assert picture.content.startswith(b"\x89PNG")


def _assert_fetchable(api: Described, model: dict[str, Any], bucket: Bucket) -> None:
    """By presigned url, by the redirect, and raw by another S3 client."""
    client = boto3.client(
        "s3",
        endpoint_url=bucket.url,
        aws_access_key_id=bucket.access_key,
        aws_secret_access_key=bucket.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    with closing(client) as s3:
        _assert_every_file(api, s3, model, bucket.name)


def _assert_every_file(api: Described, s3: Any, model: dict[str, Any], bucket: str) -> None:
    assert {file["path"] for file in model["files"]} >= {"model.safetensors", "config.json", "README.md"}
    for file in model["files"]:
        presigned = httpx2.get(file["url"]).content
        key = unquote(urlsplit(file["url"]).path).removeprefix(f"/{bucket}/")
        raw = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert hashlib.sha256(presigned).hexdigest() == hashlib.sha256(raw).hexdigest() == file["sha256"]
        where = {"name": "starry", "version": "1", "path": file["path"]}
        answer = api.call("get", "/v1/models/{name}/versions/{version}/files/{path}", **where)
        assert answer.status_code == 307
        assert httpx2.get(answer.headers["location"]).content == raw
