"""Every setting of the service, once.

Read from `STYLEFOUNDRY_…` environment variables, else from files called `stylefoundry_…` in the folder that
`STYLEFOUNDRY_SECRETS_DIR` names, else from the TOML file that `STYLEFOUNDRY_CONFIG` names, else the default here.
Nothing else in the project reads the environment. `docs/operating.md` lists the same settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from orchestrator.scheduling.classes import DEFAULT_CLASSES, PriorityClass, parse_classes


class Settings(BaseSettings):
    """What API, dispatcher and workers need to find each other and to agree on time limits."""

    model_config = SettingsConfigDict(env_prefix="STYLEFOUNDRY_", extra="forbid", frozen=True)

    database_url: str = Field(
        "sqlite:///stylefoundry.db", description="SQLAlchemy URL: sqlite:///… or postgresql+psycopg://…"
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey, with its password"
    )
    s3_url: str = Field("http://127.0.0.1:9000", description="object store as API and workers reach it")
    s3_public_url: str | None = Field(None, description="the same as clients reach it: signed into urls")
    s3_bucket: str = Field("stylefoundry", description="bucket that holds everything, created when missing")
    s3_region: str = Field("us-east-1", description="region in the signatures")
    s3_access_key: str = Field("stylefoundry", description="access key of the object store")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="secret key of the object store")
    presign_s: int = Field(3600, description="lifetime of presigned urls, seconds", ge=60, le=604_800)

    host: str = Field("127.0.0.1", description="address the API listens on")
    port: int = Field(8790, description="port the API listens on", ge=1, le=65535)
    public_url: str | None = Field(None, description="address of the API as browsers see it; checked against Origin")
    admin_key: SecretStr | None = Field(None, description="key of the first administrator, made known to SQL at start")

    ray_address: str = Field("ray://127.0.0.1:10001", description="Ray Client address of the cluster")
    ray_without_token: bool = Field(False, description="let dispatchers use a Ray without token authentication")
    ray_namespace: str = Field("stylefoundry", description="Ray namespace that holds our actors")
    cpus: int | None = Field(
        None, description="cores that jobs may take; empty: what Ray has; 0: warm workers alone", ge=0
    )
    gpus: int | None = Field(None, description="GPUs that jobs may take; empty: what Ray has", ge=0)
    classes: str = Field(
        DEFAULT_CLASSES,
        description="classes of priority: JSON, name to level (higher goes first), preemptible, preempts",
    )
    autoscale: bool = Field(False, description="ask Ray's autoscaler for room for what is at work and what waits")
    warm_workers: int = Field(1, description="workers kept warm for adaptation, ingest and stylisation", ge=0, le=64)
    warm_encoder: str = Field("small-narrow", description="encoder that warm workers load before they are asked")

    lease_s: float = Field(15.0, description="lease of an attempt, seconds", gt=0)
    renew_s: float = Field(1.0, description="pause between two renewals of a lease, seconds", gt=0)
    outage_s: float = Field(1800.0, description="how long workers go on without SQL or S3, seconds", gt=0)
    grace_s: float = Field(30.0, description="time from a stop request to the kill, seconds", gt=0)
    join_s: float = Field(120.0, description="how long the workers of a gang wait for one another, seconds", gt=0)
    stall_s: float = Field(600.0, description="no step for this long and for 20 usual steps: stalled, seconds", gt=0)

    cache_dir: Path = Field(Path(".stylefoundry/cache"), description="shards and base models on a worker's disk")
    cache_max_mib: int = Field(10_240, description="size of that cache, MiB; the least recently used go first", ge=64)
    weights_dir: Path = Field(Path(".stylefoundry/weights"), description="encoder weights on a worker's disk")
    max_picture_mpx: int = Field(
        100, description="largest picture in an ingest, into and out of a stylisation, megapixels", ge=1
    )

    stylize_timeout_s: float = Field(120.0, description="longest time that a stylisation may take, seconds", gt=0)

    dispatch_port: int | None = Field(
        None, description="port of a dispatcher's own /livez and /metrics; empty: none", ge=1, le=65535
    )
    webhook_private: bool = Field(
        False, description="webhooks may go to private and loopback addresses too: an intranet, tests"
    )
    reads_per_minute: int = Field(60_000, description="requests of a key that look; 0: no limit", ge=0)
    writes_per_minute: int = Field(60_000, description="requests of a key that change something; 0: no limit", ge=0)
    stylizes_per_minute: int = Field(600, description="stylisations of a key; 0: no limit", ge=0)
    audit_days: int = Field(365, description="how long the audit log is kept, days", ge=1)

    log_json: bool = Field(True, description="log lines as JSON; false: for people")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=os.environ.get("STYLEFOUNDRY_CONFIG"))
        secrets = SecretsSettingsSource(settings_cls, secrets_dir=os.environ.get("STYLEFOUNDRY_SECRETS_DIR"))
        return init_settings, env_settings, secrets, toml

    @field_validator("classes")
    @classmethod
    def _classes_can_be_read(cls, text: str) -> str:
        parse_classes(text)
        return text

    @property
    def declared_classes(self) -> Mapping[str, PriorityClass]:
        """The classes of priority by name."""
        return parse_classes(self.classes)

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.startswith("sqlite")


@cache
def settings() -> Settings:
    """This process's settings, read at the first call."""
    return Settings()
