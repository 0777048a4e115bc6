from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from stylemodels import checkpoint
from stylemodels.checkpoint import Damaged, State, digest_of, tensors_to_bytes, verify_manifest, write_manifest
from tests.stylemodels.toy import same

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, 2]), "c": torch.tensor([7], dtype=torch.uint8)}
STATE = State(
    step=12,
    weights=TENSORS,
    optimizer={"main/0/step": torch.tensor(3.0)},
    random={"torch": torch.get_rng_state()},
    facts={"seed": 5, "phase": "train"},
)


def test_a_file_of_tensors_can_be_read_by_safetensors(tmp_path: Path):
    checkpoint.save_tensors(TENSORS, tmp_path / "x.safetensors", {"title": "x"})
    assert same(safetensors.torch.load_file(tmp_path / "x.safetensors"), TENSORS)
    assert same(checkpoint.load_tensors(tmp_path / "x.safetensors"), TENSORS)


def test_the_same_tensors_give_the_same_bytes_in_every_process():
    code = (
        "import sys, torch; from stylemodels.checkpoint import tensors_to_bytes;"
        "t = {f'layer{n}.weight': torch.full((2,), float(n)) for n in range(9)};"
        "sys.stdout.buffer.write(tensors_to_bytes(t, {f'key{n}': 'x' for n in range(9)}))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(3)]
    assert len(runs[0]) > 500
    assert len(set(runs)) == 1


def test_bytes_depend_neither_on_the_order_of_names_nor_on_the_layout_in_memory():
    pictures = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    first = {"p": pictures, "q": TENSORS["b"]}
    second = {"q": TENSORS["b"], "p": pictures.contiguous(memory_format=torch.channels_last)}
    assert tensors_to_bytes(first) == tensors_to_bytes(second)
    assert digest_of(first) != digest_of({"p": pictures})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path):
    checkpoint.save(STATE, tmp_path / "step-00000012")
    loaded = checkpoint.load(tmp_path / "step-00000012")
    assert (loaded.step, loaded.facts) == (12, STATE.facts)
    assert same(loaded.weights, STATE.weights)
    assert same(loaded.optimizer, STATE.optimizer)
    assert same(loaded.random, STATE.random)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012"]


def test_a_checkpoint_replaces_the_one_before_it(tmp_path: Path):
    checkpoint.save(STATE, tmp_path / "x")
    (tmp_path / "x" / "left-over").touch()
    checkpoint.save(STATE, tmp_path / "x")
    assert not (tmp_path / "x" / "left-over").exists()


def test_the_manifest_is_the_last_of_the_files():
    assert list(checkpoint.to_files(STATE))[-1] == checkpoint.MANIFEST


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "changed", "missing"])
def test_damage_is_found_and_the_file_named(tmp_path: Path, name: str, harm: str):
    checkpoint.save(STATE, tmp_path / "x")
    file = tmp_path / "x" / name
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[:-1])
    elif harm == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.unlink()
    with pytest.raises(Damaged, match=name) as caught:
        checkpoint.load(tmp_path / "x")
    assert caught.value.file == name


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}"])
def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path, content: bytes | None):
    checkpoint.save(STATE, tmp_path / "x")
    manifest = tmp_path / "x" / checkpoint.MANIFEST
    manifest.unlink() if content is None else manifest.write_bytes(content)
    with pytest.raises(Damaged, match=r"manifest\.json"):
        checkpoint.load(tmp_path / "x")


def test_a_manifest_of_any_folder_lists_size_and_sha256(tmp_path: Path):
    (tmp_path / "hello.txt").write_bytes(b"hello")
    write_manifest(tmp_path)
    entry = json.loads((tmp_path / checkpoint.MANIFEST).read_text())["files"]["hello.txt"]
    assert entry == {"size": 5, "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
    verify_manifest(tmp_path)


def test_a_broken_file_of_tensors_is_damage(tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(b"not tensors")
    with pytest.raises(Damaged, match=r"x\.safetensors"):
        checkpoint.load_tensors(tmp_path / "x.safetensors")
