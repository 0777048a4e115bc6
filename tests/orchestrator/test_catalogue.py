"""What the API knows of the style library, without importing torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.catalogue import Catalogue, InvalidConfig, read_catalogue


@pytest.fixture(scope="module")
def catalogue(described: Path) -> Catalogue:
    return read_catalogue(described)


def test_the_description_is_kept_until_the_sources_change(tmp_path: Path, described: Path):
    read_catalogue(described)
    (kept,) = described.iterdir()
    described_once = json.loads(kept.read_text())
    marked = described_once | {"methods": [described_once["methods"][0] | {"title": "as it was kept"}]}
    (tmp_path / kept.name).write_text(json.dumps(marked))
    (tmp_path / "methods-of-other-sources.json").write_text("{}")
    (method,) = read_catalogue(tmp_path).methods.values()
    assert method["title"] == "as it was kept"


def test_every_task_takes_its_own_defaults(catalogue: Catalogue):
    for slug, method in catalogue.methods.items():
        for name in method["tasks"]:
            task = catalogue.task(slug, name)
            assert task is not None
            config = task.complete({})
            assert task.complete(config) == config
            assert task.complete(json.loads(json.dumps(config))) == config
            assert task.total_steps(config) == sum(phase["steps"] for phase in method["tasks"][name]["phases"])
            task.complete_controls({})


def test_steps_are_known_at_submit(catalogue: Catalogue):
    task = catalogue.task("metastyle", "train")
    assert task is not None
    assert task.total_steps(task.complete({"steps": 17})) == 17


def test_steps_of_several_phases_are_known_too(catalogue: Catalogue):
    distill = catalogue.task("collaborative-distillation", "distill")
    assert distill is not None
    config = distill.complete({"steps": 10, "stages": [4, 1], "bd_steps": [3, 5]})
    assert distill.total_steps(config) == 3 + 5 + 4 * 10
    linear = catalogue.task("linear", "train")
    assert linear is not None
    config = linear.complete({"steps": 10})
    assert (linear.total_steps(config), linear.total_steps(config, based=True)) == (20, 10)


def test_what_is_not_there_is_none(catalogue: Catalogue):
    assert catalogue.task("metastyle", "nonsense") is None
    assert catalogue.task("nonsense", "train") is None
    assert catalogue.weights_of("vgg16") == "vgg16"
    assert catalogue.weights_of("small") is None
    assert catalogue.weights_of("nonsense") is None
    assert {"small", "small-narrow", "random"} <= set(catalogue.free_encoders())


def test_what_decides_the_networks_shapes_is_known(catalogue: Catalogue):
    assert {"encoder", "width", "res_blocks"} <= catalogue.architecture("metastyle")
    assert "steps" not in catalogue.architecture("metastyle")


def test_a_base_model_fixes_its_settings(catalogue: Catalogue):
    adapt = catalogue.task("metastyle", "adapt")
    assert adapt is not None
    base = {"encoder": "random", "width": 4, "res_blocks": 1, "steps": 99}
    config = adapt.complete({}, base)
    assert (config["encoder"], config["width"], config["res_blocks"]) == ("random", 4, 1)
    assert config["steps"] == adapt.config["properties"]["steps"]["default"]
    with pytest.raises(InvalidConfig, match="width"):
        adapt.complete({"width": 8}, base)


def test_the_api_starts_without_torch_and_ray(described: Path):
    program = (
        "import sys; from pathlib import Path; import orchestrator.api.__main__; "
        "from orchestrator.catalogue import read_catalogue; read_catalogue(Path(sys.argv[1])); "
        "print([name for name in ('torch', 'ray', 'numpy', 'workers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(described)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
