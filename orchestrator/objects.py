"""The object store: any S3, through the `minio` SDK, and the layout of its keys.

That an object is there proves nothing (a server may show what is still coming in, or what a dead sender left): a key is
written once, what counts has its digest in SQL or in a manifest, and a broken upload starts anew.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.datatypes import ListMultipartUploadsResult
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error

from orchestrator.settings import Settings

PART_BYTES = 16 * 1024 * 1024
SETTLE_S = 10.0
# rclone calls its error documents `text/xml`, which the SDK takes for no error document at all.
REFUSALS = (S3Error, InvalidResponseError)
NO_UPLOADS = ("NoSuchUpload", "NotImplemented")  # so rclone says that none is open; others know of none
OUTAGES = (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)


class Missing(Exception):
    """No object has this key."""


class Corrupt(Exception):
    """An object's bytes are not those that its digest promises."""


class Objects:
    """Put, get, presign, list, delete in the service's one bucket. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.s3_bucket
        self._presign_s = settings.presign_s
        self._client = _client(settings, settings.s3_url)
        self._public = _client(settings, settings.s3_public_url or settings.s3_url)

    def ensure_bucket(self) -> None:
        """Create the bucket where it is missing."""
        if not self._client.bucket_exists(bucket_name=self.bucket):
            try:
                self._client.make_bucket(bucket_name=self.bucket)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def available(self) -> bool:
        """True when the store answers now and has our bucket."""
        try:
            return bool(self._client.bucket_exists(bucket_name=self.bucket))
        except (*REFUSALS, *OUTAGES):
            return False

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self._client.put_object(
            bucket_name=self.bucket, object_name=key, data=io.BytesIO(data), length=len(data), content_type=content_type
        )
        self._settle(key, len(data))

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        self._client.fput_object(
            bucket_name=self.bucket,
            object_name=key,
            file_path=str(path),
            content_type=content_type,
            part_size=PART_BYTES,
        )
        self._settle(key, path.stat().st_size)

    def _settle(self, key: str, size: int) -> None:
        """Return once readers see what was written: rclone confirms a `PUT` a moment before (seen: up to a second)."""
        deadline = time.monotonic() + SETTLE_S
        while (seen := self._size_shown(key)) != size:
            if time.monotonic() > deadline:
                raise ConnectionError(f"{key}: {size} bytes were written, the object store still shows {seen}")
            time.sleep(0.02)

    def _size_shown(self, key: str) -> int | None:
        try:
            return self.size(key)
        except Missing:
            return None

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        """All bytes of an object. Raises Missing, Corrupt (against `sha256`), or one of OUTAGES."""
        data = b"".join(self.stream(key))
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"{key}: its sha256 is not {sha256}")
        return data

    def stream(self, key: str, chunk_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """The bytes of an object in pieces. Raises Missing."""
        try:
            response = self._client.get_object(bucket_name=self.bucket, object_name=key)
        except REFUSALS as error:
            raise _explained(error, key) from error
        try:
            yield from response.stream(chunk_bytes)
        finally:
            response.close()
            response.release_conn()

    def size(self, key: str) -> int:
        """Bytes of an object. Raises Missing."""
        try:
            return self._client.stat_object(bucket_name=self.bucket, object_name=key).size or 0
        except REFUSALS as error:
            raise _explained(error, key) from error

    def copy(self, source: str, target: str) -> None:
        """Copy on the server. Raises Missing."""
        try:
            self._client.copy_object(
                bucket_name=self.bucket,
                object_name=target,
                source=CopySource(bucket_name=self.bucket, object_name=source),
            )
        except REFUSALS as error:
            raise _explained(error, source) from error

    def keys(self, prefix: str) -> Iterator[str]:
        for found in self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True):
            yield str(found.object_name)

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys and their bytes."""
        for found in self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True):
            yield str(found.object_name), found.size or 0

    def older_than(self, prefix: str, age_s: float) -> Iterator[str]:
        """Keys under `prefix` that were written longer than `age_s` seconds ago, by the store's clock and ours."""
        now = datetime.now(UTC)
        for found in self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True):
            if found.last_modified is not None and (now - found.last_modified).total_seconds() > age_s:
                yield str(found.object_name)

    def delete(self, keys: list[str]) -> None:
        """Delete objects; those that are not there are no error."""
        failures = self._client.remove_objects(
            bucket_name=self.bucket, delete_object_list=[DeleteObject(key) for key in keys]
        )
        for failure in failures:
            raise ConnectionError(f"could not delete {failure.name}: {failure.message}")

    def delete_prefix(self, prefix: str) -> None:
        self.delete(list(self.keys(prefix)))

    def abort_uploads(self, age_s: float) -> int:
        """End multipart uploads that were begun longer than `age_s` seconds ago; how many there were.

        The SDK has no public name for these two calls, and its private one sends what rclone misreads.
        """
        now = datetime.now(UTC)
        try:
            answer = self._client._execute("GET", self.bucket, query_params={"uploads": ""})
        except REFUSALS as error:
            if _code(error) in NO_UPLOADS:
                return 0
            raise
        old = 0
        for upload in ListMultipartUploadsResult(answer).uploads:
            begun = upload.initiated_time
            if begun is not None and (now - begun).total_seconds() > age_s and upload.upload_id is not None:
                self._client._abort_multipart_upload(self.bucket, str(upload.object_name), upload.upload_id)
                old += 1
        return old

    def presigned_get(self, key: str) -> str:
        """A url for `GET` (and ranges), signed for the address that clients use; no request is made."""
        return self._public.presigned_get_object(
            bucket_name=self.bucket, object_name=key, expires=timedelta(seconds=self._presign_s)
        )

    def presigned_put(self, key: str) -> str:
        return self._public.presigned_put_object(
            bucket_name=self.bucket, object_name=key, expires=timedelta(seconds=self._presign_s)
        )


def _client(settings: Settings, url: str) -> Minio:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ValueError(f"object store url {url!r}: give scheme, host and port only, e.g. http://127.0.0.1:9000")
    http = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=60), retries=urllib3.Retry(total=2, backoff_factor=0.2), maxsize=16
    )
    return Minio(
        endpoint=parts.netloc,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        secure=parts.scheme == "https",
        region=settings.s3_region,
        http_client=http,
    )


def _code(error: S3Error | InvalidResponseError) -> str:
    return str(error.code) if isinstance(error, S3Error) else "".join(re.findall("<Code>(.*?)</Code>", str(error)))


def _explained(error: S3Error | InvalidResponseError, key: str) -> Exception:
    return Missing(key) if _code(error) in ("NoSuchKey", "NoSuchObject", "NoSuchBucket") else error


# --- the layout -------------------------------------------------------------------------------------------------------


def upload_key(tenant: str, sha256: str) -> str:
    return f"uploads/{tenant}/{sha256}"


def blob_key(tenant: str, sha256: str) -> str:
    return f"blobs/{tenant}/{sha256}"


def dataset_prefix(tenant: str, name: str, version: int, attempt: int) -> str:
    return f"datasets/{tenant}/{name}/{version}/a{attempt}"


def attempt_prefix(tenant: str, job_id: str, attempt: int) -> str:
    return f"jobs/{tenant}/{job_id}/a{attempt}"


def checkpoint_prefix(tenant: str, job_id: str, attempt: int, step: int) -> str:
    return f"{attempt_prefix(tenant, job_id, attempt)}/checkpoints/{step:010d}"


def sample_key(tenant: str, job_id: str, attempt: int, step: int, name: str) -> str:
    return f"{attempt_prefix(tenant, job_id, attempt)}/samples/{step:010d}/{name}.jpg"


def model_prefix(tenant: str, job_id: str, attempt: int) -> str:
    return f"{attempt_prefix(tenant, job_id, attempt)}/model"


def log_key(tenant: str, job_id: str, attempt: int) -> str:
    return f"{attempt_prefix(tenant, job_id, attempt)}/log.jsonl"


def builtin_prefix(sha256: str) -> str:
    return f"builtin/{sha256}"


def weights_key(sha256: str) -> str:
    return f"weights/{sha256}"
