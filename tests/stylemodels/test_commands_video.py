"""`python -m stylemodels video`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stylemodels.__main__ import main
from stylemodels.export import write_model
from stylemodels.images import load_picture, save_picture
from stylemodels.method import Style
from stylemodels.methods import find_task
from stylemodels.stylize import load_model
from stylemodels.video import stylize_video
from tests.stylemodels.clips import gray_frames, shown, write_clip
from tests.stylemodels.toy import paintings, small_task


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model of `linear`, a clip and a painting."""
    method, task = find_task("linear/train")
    write_model(tmp_path / "model", small_task("linear/train"), method, task)
    save_picture(paintings(1, 40)[0], tmp_path / "style.png")
    write_clip(tmp_path / "clip.mp4", gray_frames(5))
    return tmp_path


def arguments(place: Path, *more: str) -> list[str]:
    names = {"--model": "model", "--content": "clip.mp4", "--style": "style.png", "--out": "out.mp4"}
    return ["video", *(word for flag, name in names.items() for word in (flag, str(place / name))), *more]


def test_a_video_is_what_the_library_draws(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(place, "--set", "temporal=ema", "size=32", "--part-frames", "2")) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(place / "out.mp4")
    assert "5/5 frames" in err
    styles = [Style(load_picture(place / "style.png"))]
    controls = {"temporal": "ema", "size": 32}
    model = load_model(place / "model")
    stylize_video(model, place / "clip.mp4", place / "own.mp4", styles, controls, part_frames=2)
    assert (place / "out.mp4").read_bytes() == (place / "own.mp4").read_bytes()


def test_the_sound_is_left_out_when_told(place: Path):
    assert main(arguments(place, "--no-sound", "--out", str(place / "out.webm"))) == 0
    assert len(shown(place / "out.webm")) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--content", "{place}/nowhere.mp4"], "nowhere.mp4: there is no such file"),
        (["--content", "{place}/style.png"], "style.png: not a readable video"),
        (["--out", "{place}/out.avi"], "out.avi: videos are written as"),
        (["--out", "{place}/out.webm"], "cannot hold the sound"),
        (["--set", "tile=256"], "tile"),
        (["--set", "temporal=often"], "temporal"),
        (["--set", "temporal=ema", "passes=2"], "passes"),
        (["--part-frames", "0"], "--part-frames 0"),
        (["--model", "unheard-of"], "unheard-of"),
    ],
)
def test_a_mistake_ends_with_one_line_and_status_1(
    place: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
):
    assert main(arguments(place, *(word.format(place=place) for word in change))) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.rstrip().count("\n") == 0, "one line"


def test_without_pyav_it_says_what_to_install(place: Path):
    script = "import sys; sys.modules['av'] = None; from stylemodels.__main__ import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run([sys.executable, "-c", script, *arguments(place)], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "stylemodels: video needs PyAV: pip install 'stylefoundry[video]'"
