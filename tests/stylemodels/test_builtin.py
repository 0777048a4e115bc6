"""The models in the package: whole, small, loadable, and known without torch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stylemodels.builtin import MODELS_DATA, builtin_folder, builtin_models
from stylemodels.encoders import load_encoder
from stylemodels.export import CARD_FILE, CONFIG_FILE, MODEL_FILE, write_model
from stylemodels.method import Given
from stylemodels.methods import find_task
from stylemodels.settings import build
from stylemodels.stylize import load_model

MIB = 1024 * 1024


@pytest.mark.parametrize("name", builtin_models())
def test_every_built_in_model_is_whole_small_and_loads_without_other_weights(name: str):
    model = builtin_models()[name]
    assert {MODEL_FILE, CONFIG_FILE, CARD_FILE} <= {file.path for file in model.files}
    assert sum(file.size for file in model.files) <= 10 * MIB
    for file in model.files:
        content = (model.folder / file.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
    loaded = load_model(builtin_folder(name))
    assert loaded.name == f"{model.description['method']}/{model.description['task']}"


def test_gatys_is_what_the_library_writes_for_the_small_encoder(tmp_path: Path):
    method, name = find_task("gatys/optimise")
    task_class = method.tasks[name]
    config: Any = build(task_class.Config, {"encoder": "small"})
    task = task_class(config, Given(task_class.needs, encoder=load_encoder("small")))
    write_model(tmp_path, task, method, name)
    for file in (MODEL_FILE, CONFIG_FILE):
        assert (tmp_path / file).read_bytes() == (builtin_folder("gatys") / file).read_bytes(), file


def test_a_changed_file_is_another_model(tmp_path: Path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG_FILE).write_text('{"method": "m", "task": "t"}')
    (tmp_path / "no-model").mkdir()
    first, second = builtin_models(tmp_path).values()
    assert first.sha256 == second.sha256
    (tmp_path / "second" / "samples").mkdir()
    (tmp_path / "second" / "samples" / "result-1.jpg").write_bytes(b"picture")
    changed = builtin_models(tmp_path)["second"]
    assert changed.sha256 != first.sha256
    assert [file.path for file in changed.files] == [CONFIG_FILE, "samples/result-1.jpg"]


@pytest.mark.parametrize("name", ["nothing", "", "..", "../models_data", "/etc"])
def test_only_built_in_models_have_a_folder(name: str):
    with pytest.raises(ValueError, match=r"there is no built-in model .*; there are gatys"):
        builtin_folder(name)
    assert builtin_folder("gatys") == MODELS_DATA / "gatys"


def test_what_there_is_is_known_without_torch():
    code = (
        "import sys; from stylemodels.builtin import builtin_models; builtin_models(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
