"""Weight files: found, believed by digest, fetched whole or not at all."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.error import HTTPError

import pytest
import torch

from stylemodels.weights import (
    PUBLISHED,
    Weights,
    check_sha256,
    fetch,
    metadata,
    published_tensors,
    shipped_bytes,
    shipped_tensors,
)

VGG16 = PUBLISHED["vgg16"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and the url under which a real server shows it."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_published_files_name_their_digests():
    for published in PUBLISHED.values():
        assert published.sha256_prefix in published.name
        assert published.url.endswith(published.name)


@pytest.mark.parametrize(
    "name",
    [VGG16.name, "vgg16.safetensors", "vgg16.pth", VGG16.sha256_prefix + "0" * 56],
    ids=["published", "st", "pth", "digest"],
)
def test_a_file_is_found_under_each_of_its_names(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "vgg19.pth").write_bytes(b"")
    assert Weights(tmp_path).find("vgg16") == tmp_path / name


def test_an_explicit_path_comes_first(tmp_path):
    (tmp_path / VGG16.name).write_bytes(b"")
    weights = Weights(tmp_path, {"vgg16": tmp_path / "mine.safetensors"})
    assert weights.find("vgg16") == tmp_path / "mine.safetensors"
    assert weights.find("vgg19") is None
    with pytest.raises(ValueError, match="no weights called 'vgg11'; known: vgg16, vgg19"):
        Weights(paths={"vgg11": tmp_path})


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / VGG16.name)
    with pytest.raises(ValueError, match=r"not the published file: its sha256 is [0-9a-f]{64}, not 397923af"):
        published_tensors("vgg16", Weights(tmp_path))


def test_a_path_to_nothing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*gone\.safetensors"):
        published_tensors("vgg16", Weights(paths={"vgg16": tmp_path / "gone.safetensors"}))


def test_something_else_named_safetensors_is_refused(tmp_path):
    (tmp_path / "vgg16.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ValueError, match=r"cannot read .*vgg16\.safetensors"):
        published_tensors("vgg16", Weights(tmp_path))


def test_a_fetched_file_is_whole_and_reports_its_progress(served, tmp_path):
    folder, url = served
    content = bytes(range(256)) * 10_000
    (folder / "weights.bin").write_bytes(content)
    seen: list[tuple[int, int | None]] = []
    dest = tmp_path / "new" / "weights.bin"
    fetch(f"{url}/weights.bin", hashlib.sha256(content).hexdigest()[:8], dest, progress=lambda *at: seen.append(at))
    assert dest.read_bytes() == content
    assert seen[-1] == (len(content), len(content))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 1


def test_a_file_with_another_digest_does_not_appear(served, tmp_path):
    folder, url = served
    (folder / "weights.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not the published file"):
        fetch(f"{url}/weights.bin", "00000000", tmp_path / "new" / "weights.bin")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_that_the_server_does_not_have_leaves_nothing_behind(served, tmp_path):
    _, url = served
    with pytest.raises(HTTPError, match="404") as missing:
        fetch(f"{url}/missing.bin", "00000000", tmp_path / "new" / "missing.bin")
    missing.value.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_digest_is_compared_from_its_beginning(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    check_sha256(path, "ba7816bf")
    check_sha256(path, hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(ValueError, match=f"{path.name} is not the published file"):
        check_sha256(path, "7816bf")


def test_the_small_encoder_comes_with_the_package_and_says_where_it_is_from(tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(shipped_bytes())
    assert path.stat().st_size <= 2_500_000
    about = metadata(path)
    assert "MIT" in about["teacher_licence"]
    assert {"command", "data", "data_sha256", "figures", "recipe", "teacher", "teacher_sha256"} <= set(about)
    assert all(tensor.dtype == torch.float32 for tensor in shipped_tensors().values())


def test_the_card_of_the_small_encoder_names_the_file_it_describes():
    card = (files("stylemodels") / "weights_data" / "README.md").read_text()
    assert card.startswith("---\n"), "front matter"
    assert hashlib.sha256(shipped_bytes()).hexdigest() in card
    for word in ("16x network", "not VGG-19", "MIT", "--teacher wct_se_16x_5SE.safetensors", "--content DIR"):
        assert word in card
