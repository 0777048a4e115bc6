"""The command line, in a process of its own where that is what matters, else by its function."""

from __future__ import annotations

import hashlib
import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import stylemodels.commands
from stylemodels.__main__ import VERBS, main
from stylemodels.checkpoint import load_tensors
from stylemodels.images import load_picture
from stylemodels.schema import complete_config
from tests.stylemodels.toy import paintings, photos, write_pictures

TINY = ["content_size=32", "style_size=32", "batch_size=1", "style_weight=30"]
TINY_NETWORK = ["encoder=random", "width=4", "res_blocks=1"]
TINY_TRAIN = [*TINY, *TINY_NETWORK, "meta_batch=1", "steps=4", "checkpoint_every=2", "preview_every=2", "onnx=false"]
TINY_ADAPT = [*TINY, "steps=3", "preview_steps=[0]"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder with `content`, `style` and nothing else."""
    write_pictures(tmp_path / "content", photos(10, 40))
    write_pictures(tmp_path / "style", paintings(3, 40))
    return tmp_path


def train_arguments(folders: Path, out: str, *more: str) -> list[str]:
    places = ["--content", str(folders / "content"), "--style", str(folders / "style"), "--out", str(folders / out)]
    return ["train", "metastyle", *places, "--set", *TINY_TRAIN, *more]


def adapt_arguments(folders: Path, base: str, style: int, out: str) -> list[str]:
    places = ["--content", str(folders / "content"), "--style-image", str(folders / "style" / f"{style}.png")]
    places += ["--base", str(folders / base / "model"), "--out", str(folders / out)]
    return ["train", "metastyle/adapt", *places, "--set", *TINY_ADAPT]


def model_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_describe_prints_what_a_process_without_torch_needs_to_complete_configs():
    run = subprocess.run([sys.executable, "-m", "stylemodels", "describe"], capture_output=True, text=True, check=True)
    described = json.loads(run.stdout)
    assert {"code", "encoders", "methods"} == set(described)
    metastyle = next(method for method in described["methods"] if method["method"] == "metastyle")
    completed = complete_config(metastyle["tasks"]["train"]["config"], {"steps": 5, "encoder": "small"})
    assert completed["steps"] == 5
    assert completed["style_weight"] == metastyle["tasks"]["train"]["config"]["properties"]["style_weight"]["x-small"]
    assert metastyle["tasks"]["train"]["parameters"] == {"network": 1_679_235}


def test_two_folders_become_a_model_with_checkpoints_and_previews(folders: Path, capsys: pytest.CaptureFixture[str]):
    assert main(train_arguments(folders, "out")) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(folders / "out" / "model")
    assert "4/4" in err
    assert "total_loss" in err
    assert {p.name for p in (folders / "out" / "model").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert {p.name for p in (folders / "out" / "checkpoints").iterdir()} == {"step-00000002", "step-00000004"}
    assert (folders / "out" / "samples" / "step-00000004" / "result-1-1.jpg").exists()


def test_a_resumed_run_ends_with_the_same_model_as_a_whole_one(folders: Path):
    assert main(train_arguments(folders, "whole")) == 0
    assert main(train_arguments(folders, "resumed")) == 0
    wrecked = folders / "resumed" / "checkpoints" / "step-00000004" / "weights.safetensors"
    wrecked.write_bytes(wrecked.read_bytes()[:-1])
    (folders / "resumed" / "model" / "model.safetensors").unlink()

    assert main(train_arguments(folders, "resumed", "--resume")) == 0
    assert model_digest(folders / "resumed") == model_digest(folders / "whole")


def test_the_model_depends_on_the_seed_and_the_pictures_but_not_on_their_names(folders: Path):
    assert main(train_arguments(folders, "first")) == 0
    for number, picture in enumerate(sorted((folders / "content").iterdir())):
        picture.rename(picture.with_name(f"renamed-{20 - number}.png"))
    assert main(train_arguments(folders, "renamed")) == 0
    assert main(train_arguments(folders, "other", "--seed", "1")) == 0
    assert model_digest(folders / "renamed") == model_digest(folders / "first")
    assert model_digest(folders / "other") != model_digest(folders / "first")


def test_resuming_with_other_settings_is_refused(folders: Path, capsys: pytest.CaptureFixture[str]):
    assert main(train_arguments(folders, "out")) == 0
    assert main(train_arguments(folders, "out", "lr=0.5", "--resume")) == 1
    assert "other settings" in capsys.readouterr().err


def test_adaptations_of_one_base_are_drawn_blended_and_mixed(folders: Path):
    assert main(train_arguments(folders, "meta")) == 0
    for style in (0, 1):
        assert main(adapt_arguments(folders, "meta", style, f"adapted{style}")) == 0
    models = [str(folders / f"adapted{style}" / "model") for style in (0, 1)]
    photo = str(folders / "content" / "0.png")

    def drawn(name: str, *arguments: str) -> torch.Tensor:
        assert main(["stylize", "--content", photo, "--out", str(folders / name), *arguments]) == 0
        return load_picture(folders / name)

    style = drawn("style.png", "--model", models[0])
    start = drawn("start.png", "--model", models[0], "--set", "strength=0")
    mixed = drawn("mixed.png", "--model", f"{models[0]}:0.5", "--model", f"{models[1]}:0.5")
    theta = drawn("theta.png", "--model", str(folders / "meta" / "model"))
    assert style.shape == start.shape == mixed.shape == (1, 3, 40, 40)
    assert_close(start, theta)
    assert not torch.equal(style, start)
    assert load_tensors(folders / "adapted0" / "model" / "model.safetensors")


def test_johnson_s_training_needs_no_base(folders: Path):
    arguments = adapt_arguments(folders, "none", 0, "johnson")
    place = arguments.index("--base")
    del arguments[place : place + 2]
    assert main([*arguments, *TINY_NETWORK]) == 0
    assert (folders / "johnson" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "lr=-1"], "lr: -1 was given"),
        (["--set", "lrr=1"], "lrr: unknown setting"),
        (["--set", "steps"], "write NAME=VALUE"),
        (["--content", "nowhere"], "nowhere"),
        (["--config", "nowhere.json"], "nowhere.json: not a JSON file"),
        (["--set", "encoder=vgg16"], "vgg16"),
    ],
)
def test_a_mistake_ends_with_a_sentence_and_status_1(
    folders: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
):
    assert main([*train_arguments(folders, "out"), *change]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_folder_without_a_picture_is_refused(folders: Path, capsys: pytest.CaptureFixture[str]):
    (folders / "empty").mkdir()
    (folders / "empty" / "words.jpg").write_text("not a picture")
    assert main([*train_arguments(folders, "out"), "--style", str(folders / "empty")]) == 1
    assert "empty" in capsys.readouterr().err


def test_a_missing_dataset_is_named(folders: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "metastyle", "--content", str(folders / "content")]) == 1
    assert "style: no folder was given" in capsys.readouterr().err


def test_settings_come_from_a_file_and_the_command_line_beats_it(folders: Path):
    (folders / "settings.json").write_text(json.dumps({"steps": 9, "width": 5}))
    assert main([*train_arguments(folders, "out"), "--config", str(folders / "settings.json")]) == 0
    config = json.loads((folders / "out" / "model" / "config.json").read_text())["config"]
    assert (config["steps"], config["width"]) == (4, 4)


def test_describing_loads_nothing_that_only_other_verbs_need():
    script = (
        "import sys; from stylemodels.__main__ import main; main(['describe']); print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stderr.split())
    assert "torch" in loaded
    assert not loaded & {"av", "pyvips", "onnx", "onnxruntime", "onnxscript"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_takes(capsys: pytest.CaptureFixture[str], verb: str):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: python -m stylemodels {verb}" in said
    assert verb == "describe" or f"example: python -m stylemodels {verb} " in said


def test_every_file_of_a_verb_is_in_the_list_of_verbs(capsys: pytest.CaptureFixture[str]):
    names = [module.name for module in pkgutil.iter_modules(stylemodels.commands.__path__)]
    files = [name for name in names if hasattr(import_module(f"stylemodels.commands.{name}"), "add_arguments")]
    assert sorted(files) == sorted(VERBS)
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert all(line in said for line in VERBS.values())


@pytest.mark.parametrize("words", [[], ["paint"], ["stylize"]])
def test_what_is_no_command_is_answered_with_the_usage(capsys: pytest.CaptureFixture[str], words: list[str]):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage: python -m stylemodels" in capsys.readouterr().err
