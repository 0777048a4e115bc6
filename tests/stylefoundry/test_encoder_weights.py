"""An operator puts published weights into the object store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from orchestrator.objects import Objects, weights_key
from orchestrator.settings import Settings
from orchestrator.store import models
from orchestrator.store.database import Database
from stylefoundry import encoder_weights


def test_a_file_is_uploaded_under_its_digest_without_the_classifier_and_known_to_submit(
    service_settings: Settings, tmp_path: Path
):
    tensors = {"features.0.weight": torch.arange(6.0).reshape(2, 3), "classifier.0.weight": torch.ones(4)}
    save_file(tensors, tmp_path / "vgg16.safetensors")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("database_url", "s3_url", "s3_bucket", "s3_access_key"):
            environment.setenv(f"STYLEFOUNDRY_{name.upper()}", str(getattr(service_settings, name)))
        environment.setenv("STYLEFOUNDRY_S3_SECRET_KEY", service_settings.s3_secret_key.get_secret_value())
        source = str(tmp_path / "vgg16.safetensors")
        added = encoder_weights.add("vgg16", source, tmp_path / "no stack", progress=lambda done, total: None)
        assert encoder_weights.add("vgg16", source, tmp_path, progress=lambda done, total: None) == added
    stored = load(Objects(service_settings).get(weights_key(added.sha256), sha256=added.sha256))
    assert list(stored) == ["features.0.weight"]
    assert stored["features.0.weight"].equal(tensors["features.0.weight"])
    db = Database(service_settings.database_url)
    with db.read() as tx:
        assert models.has_weights(tx, "vgg16")
        assert not models.has_weights(tx, "vgg19")
    db.dispose()


def test_a_pickle_that_is_not_the_published_one_is_refused_unread(tmp_path: Path):
    (tmp_path / "vgg16.pth").write_bytes(b"anything")
    with pytest.raises(ValueError, match="not the published file"):
        encoder_weights.add("vgg16", str(tmp_path / "vgg16.pth"), tmp_path, progress=lambda done, total: None)


def test_unknown_names_and_missing_files_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="known: vgg16, vgg19"):
        encoder_weights.add("resnet", "x.pth", tmp_path, progress=lambda done, total: None)
    with pytest.raises(ValueError, match=r"none\.pth: there is no such file"):
        encoder_weights.add("vgg16", "none.pth", tmp_path, progress=lambda done, total: None)
