"""The loop with one toy task of every kind that methods are: adversarial, labelled with validation, moving pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam, Optimizer
from torch.testing import assert_close

from stylemodels import checkpoint, folder_run
from stylemodels.checkpoint import to_files
from stylemodels.data import Batches, FolderSource
from stylemodels.folder_run import FolderRun
from stylemodels.method import Batch, Given, Method, Needs, Picture, Stream, Style, Task
from stylemodels.settings import Common, build, setting
from stylemodels.train import Diverged, Run, build_task
from tests.stylemodels.toy import paintings, photos, same, write_pictures


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Common):
    """Settings of the toys."""

    steps: int = setting(6, "training steps", ge=1)
    lr: float = setting(1e-2, "rate", gt=0)


class Adversarial(Task):
    """Generator against critic, with a second head that only the auxiliary loss may move and a pool of old fakes."""

    Config = ToyConfig
    needs = Needs(datasets={"content": "images"})
    model_parts = ("generator",)

    def __init__(self, config: ToyConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.generator = nn.Conv2d(3, 3, 3, padding=1)
        self.auxiliary = nn.Conv2d(3, 3, 1)
        self.critic = nn.Conv2d(3, 1, 3)
        self.register_buffer("pool", torch.zeros(4, 3, 8, 8))
        self.register_buffer("pooled", torch.zeros((), dtype=torch.int64))

    def streams(self) -> dict[str, Stream]:
        return {"content": Stream("content", count=2, size=8)}

    def optimizers(self) -> dict[str, Optimizer]:
        parts = {"generator": self.generator, "auxiliary": self.auxiliary, "critic": self.critic}
        return {name: Adam(part.parameters(), lr=self.config.lr) for name, part in parts.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        fake = self.generator(batch["content"])
        return {
            "auxiliary_loss": (self.auxiliary(fake) - batch["content"]).square().mean(),
            "generator_loss": (self.critic(fake) - 1).square().mean(),
        }

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        losses = self.losses(batch)
        auxiliary = self.gradients(losses["auxiliary_loss"], "auxiliary", retain_graph=True)
        generator = self.gradients(losses["generator_loss"], "generator")
        self.update(auxiliary, generator)
        with torch.no_grad():
            self._remember(self.generator(batch["content"]))
        critic_loss = self.critic(self.get_buffer("pool")).square().mean()
        critic_loss = critic_loss + (self.critic(batch["content"]) - 1).square().mean()
        self.update(self.gradients(critic_loss, "critic"))
        return {**losses, "critic_loss": critic_loss}

    def _remember(self, fakes: Tensor) -> None:
        pool, count = self.get_buffer("pool"), self.get_buffer("pooled")
        for fake in fakes:
            place = int(count) if count < len(pool) else int(torch.randint(len(pool), ()))
            pool[place] = fake
            count += 1


class Classifier(Task):
    """Tells classes apart from pairs of one class, and measures itself on pictures that it does not learn from."""

    Config = ToyConfig
    needs = Needs(datasets={"objects": "labelled"})
    model_parts = ("head",)

    def __init__(self, config: ToyConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.classes = given.classes["objects"]
        self.head = nn.Linear(3, len(self.classes))
        self.seen: list[Tensor] = []

    def streams(self) -> dict[str, Stream]:
        return {"objects": Stream("objects", count=4, size=16, load_size=16, per_class=2, part="train")}

    def validation_streams(self) -> dict[str, Stream]:
        return {"objects": Stream("objects", count=2, size=16, load_size=16, part="validation")}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"head": Adam(self.head.parameters(), lr=self.config.lr)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(batch["objects_label"])
        scores = self.head(batch["objects"].mean((2, 3)))
        return {"class_loss": cross_entropy(scores, batch["objects_label"])}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        right = [(self.head(b["objects"].mean((2, 3))).argmax(1) == b["objects_label"]).float().mean() for b in batches]
        torch.rand(())  # must not change what training draws
        return {"accuracy": float(torch.stack(right).mean())}

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Any) -> Picture:
        return Picture(None, {"classes": self.head(content.mean((2, 3))).softmax(1)})

    def preview(self, batch: Batch) -> list[tuple[str, Tensor]]:
        return [(f"object-{n}", picture) for n, picture in enumerate(batch["objects"], start=1)]


class Fading(Adversarial):
    """Draws a frame as the mean of itself and the frame before: it knows better than one by one."""

    styles = (0, 0)

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Any) -> Picture:
        return Picture(content)

    def stylize_video(self, frames: Iterator[Tensor], styles: Sequence[Style], controls: Any) -> Iterator[Picture]:
        before: Tensor | None = None
        for frame in frames:
            yield Picture(frame if before is None else (frame + before) / 2)
            before = frame


def adversarial() -> Run:
    return Run(build_task(Adversarial, build(ToyConfig, {}), seed=1), seed=1)


def advance(run: Run, steps: int) -> None:
    for _ in range(steps):
        run.advance({"content": torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(run.step))})


def test_each_loss_moves_only_the_network_that_it_is_meant_for():
    run = adversarial()
    task = run.task
    assert isinstance(task, Adversarial)
    losses = task.losses({"content": photos(2, 8)})
    auxiliary = task.gradients(losses["auxiliary_loss"], "auxiliary", retain_graph=True)
    generator = task.gradients(losses["generator_loss"], "generator")
    assert set(auxiliary.values) == set(task.auxiliary.parameters())
    assert set(generator.values) == set(task.generator.parameters())
    expected = torch.autograd.grad(task.losses({"content": photos(2, 8)})["generator_loss"], task.generator.weight)
    assert_close(generator.values[task.generator.weight], expected[0])


def test_three_optimisers_and_a_pool_resume_to_the_same_bytes(tmp_path: Path):
    whole = adversarial()
    advance(whole, 6)
    stopped = adversarial()
    advance(stopped, 3)
    checkpoint.save(stopped.snapshot(), tmp_path / "x")
    resumed = adversarial()
    resumed.restore(checkpoint.load(tmp_path / "x"))
    advance(resumed, 3)
    assert int(resumed.task.get_buffer("pooled")) == 12
    assert to_files(resumed.snapshot()) == to_files(whole.snapshot())


@pytest.mark.parametrize("part", ["generator", "auxiliary", "critic"])
def test_whichever_of_three_networks_diverges_the_run_stops_and_the_checkpoint_before_is_good(
    part: str, tmp_path: Path
):
    run = adversarial()
    advance(run, 3)
    checkpoint.save(run.snapshot(), tmp_path / "good")
    with torch.no_grad():
        run.task.get_submodule(part).weight.fill_(float("inf"))
    with pytest.raises(Diverged, match=r"_loss became (nan|inf) in step 4: lower the learning rate"):
        advance(run, 1)
    assert run.step == 3
    whole = adversarial()
    advance(whole, 6)
    expected = to_files(whole.snapshot())
    resumed = adversarial()
    resumed.restore(checkpoint.load(tmp_path / "good"))
    advance(resumed, 3)
    assert to_files(resumed.snapshot()) == expected


def test_a_weight_that_is_no_number_does_not_get_into_a_checkpoint():
    """Losses are taken before the step that spoils the weights, so they are still fine."""
    run = adversarial()
    advance(run, 2)
    with torch.no_grad():
        run.task.critic.bias.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"critic\.bias became nan in step 2"):
        run.snapshot()


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "objects" / "photo", photos(12, 24))
    write_pictures(tmp_path / "objects" / "painting", paintings(12, 24))
    return tmp_path / "objects"


def classifier(source: FolderSource) -> Run:
    return Run(build_task(Classifier, build(ToyConfig, {}), seed=1, classes={"objects": source.classes}), seed=1)


def test_pairs_of_a_class_lie_side_by_side_with_their_labels(classes: Path):
    source = FolderSource(classes, labelled=True)
    run = classifier(source)
    with Batches(run.streams(), {"objects": source}, seed=1) as batches:
        run.advance(batches.at(0))
    (labels,) = run.task.seen
    assert labels.dtype == torch.int64
    assert torch.equal(labels[0::2], labels[1::2])
    assert run.task.classes == ("painting", "photo")


def test_validation_shows_every_held_out_picture_once_and_training_does_not_notice(classes: Path):
    source = FolderSource(classes, labelled=True)
    run = classifier(source)
    before = torch.get_rng_state()
    with Batches(run.task.validation_streams(), {"objects": source}, seed=1) as batches:
        shown = [picture for batch in batches.round() for picture in batch["objects"]]
        figures = run.evaluate(batches.round())
    held_out = sum(int(digest[:16], 16) < 0.1 * 2**64 for digest in source.digests)
    assert len(shown) in (max(held_out, 1), max(held_out, 1) + 1), "whole batches: at most one picture comes twice"
    assert set(figures) == {"validation_accuracy"}
    assert 0 <= figures["validation_accuracy"] <= 1
    assert torch.equal(before, torch.get_rng_state())


def test_a_folder_run_tells_validation_figures_at_its_checkpoints(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    method = Method(slug="toy", title="Toy", paper="none", tasks={"train": Classifier})
    monkeypatch.setattr(folder_run, "find_task", lambda name: (method, "train"))
    told: dict[int, set[str]] = {}
    settings = {"steps": 5, "checkpoint_every": 2, "preview_every": 5}
    run = FolderRun("toy", settings, folders={"objects": classes}, out=tmp_path / "out")
    run.train(resume=False, say=lambda step, total, terms, speed: told.update({step: set(terms)}))
    assert [step for step, names in told.items() if "validation_accuracy" in names] == [2, 4, 5]
    assert (run.model_folder / "model.safetensors").exists()


def test_a_classifier_draws_no_picture_but_tells_classes(classes: Path):
    run = classifier(FolderSource(classes, labelled=True))
    picture = run.task.stylize(photos(1, 16), [], None)
    assert picture.image is None
    assert_close(picture.maps["classes"].sum(), torch.tensor(1.0))


def test_frames_are_drawn_one_by_one_unless_the_method_knows_better():
    frames = [torch.full((1, 3, 4, 4), value) for value in (0.0, 1.0, 0.0)]
    task = build_task(Fading, build(ToyConfig, {}), seed=1)
    faded = [float(picture.image.mean()) for picture in task.stylize_video(iter(frames), [], None)]
    plain = [float(picture.image.mean()) for picture in Task.stylize_video(task, iter(frames), [], None)]
    assert faded == [0.0, 0.5, 0.5]
    assert plain == [0.0, 1.0, 0.0]


def test_the_toys_differ_by_their_seed_alone():
    first, second = adversarial(), adversarial()
    assert same(first.task.state_dict(), second.task.state_dict())
