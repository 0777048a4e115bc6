from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import SGD, Adam, Optimizer
from torch.testing import assert_close

from stylemodels import checkpoint
from stylemodels.checkpoint import to_files
from stylemodels.encoders import load_encoder
from stylemodels.method import Batch, Given, Gradients, Needs, Phase, Stream, Task
from stylemodels.settings import Common, build, setting
from stylemodels.train import Diverged, Run, build_task, due, preview_due
from tests.stylemodels.toy import same, small_run


@dataclass(frozen=True, kw_only=True)
class TwoPhaseConfig(Common):
    """Settings of a task with two phases."""

    first: int = setting(4, "steps of the first phase", ge=0)
    second: int = setting(6, "steps of the second phase", ge=0)
    lr: float = setting(1e-2, "rate", gt=0)


class TwoPhase(Task):
    """Learns the mean colour: `head` first, then both parts, with noise from each of the three generators."""

    Config = TwoPhaseConfig
    needs = Needs(datasets={"content": "images"})
    model_parts = ("body", "head")

    def __init__(self, config: TwoPhaseConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 3, 1)
        self.encoder = load_encoder("random")
        self.register_buffer("first_mean", torch.zeros(()))
        self.scales: list[float] = []

    def phases(self) -> list[Phase]:
        return [Phase("head", self.config.first), Phase("both", self.config.second)]

    def streams(self) -> dict[str, Stream]:
        return {"content": Stream("content", count=2 if self.phase == "head" else 3, size=8)}

    def calibrate(self, batch: Batch) -> None:
        self.get_buffer("first_mean").copy_(batch["content"].mean())

    def optimizers(self) -> dict[str, Optimizer]:
        if self.phase == "head":
            return {"head": SGD(self.head.parameters(), lr=self.config.lr, momentum=0.9)}
        return {
            "body": Adam(self.body.parameters(), lr=self.config.lr),
            "head": Adam(self.head.parameters(), lr=self.config.lr),
        }

    def lr_scale(self, name: str) -> float:
        return 1.0 / (1.0 + self.step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        noise = torch.randn(()) + random.random() + np.random.rand()
        output = self.head(self.body(batch["content"]))
        colour_loss = ((output - batch["content"].mean()) ** 2).mean()
        return {"colour_loss": colour_loss, "noise_loss": 0.1 * noise * output.mean()}


def batch(run: Run) -> dict[str, Tensor]:
    stream = run.streams()["content"]
    return {"content": torch.rand(stream.count, 3, 8, 8, generator=torch.Generator().manual_seed(run.step))}


def started(**settings: Any) -> Run:
    return Run(build_task(TwoPhase, build(TwoPhaseConfig, settings), seed=1), seed=1)


def run_to(run: Run, step: int) -> list[dict[str, float]]:
    return [run.advance(batch(run)) for _ in range(step - run.step)]


def test_steps_are_counted_over_all_phases_and_within_each():
    run = started()
    seen = []
    while run.step < run.total_steps:
        seen.append((run.step, run.task.phase, run.task.step, run.streams()["content"].count))
        run_to(run, run.step + 1)
    assert seen == [(n, "head", n, 2) for n in range(4)] + [(4 + n, "both", n, 3) for n in range(6)]
    assert (run.step, run.task.phase, run.task.step) == (10, "both", 6)


def test_a_phase_without_steps_is_passed_over():
    run = started(first=0)
    assert (run.task.phase, run.total_steps) == ("both", 6)


def test_what_no_optimiser_of_the_phase_holds_is_frozen():
    run = started()
    body = {name: value.clone() for name, value in run.task.body.state_dict().items()}
    run_to(run, 4)
    assert same(run.task.body.state_dict(), body)
    run_to(run, 5)
    assert not torch.equal(run.task.body.weight, body["weight"])
    assert not any(parameter.requires_grad for parameter in run.task.encoder.parameters())


def test_constants_are_calibrated_once_before_the_first_step():
    run = started()
    first = batch(run)["content"].mean()
    run_to(run, 3)
    assert_close(run.task.get_buffer("first_mean"), first)


def test_rates_follow_the_step_within_the_phase():
    run = started()
    run_to(run, 3)
    assert run.task.active["head"].param_groups[0]["lr"] == pytest.approx(1e-2 / 3)
    run_to(run, 5)
    assert run.task.active["body"].param_groups[0]["lr"] == pytest.approx(1e-2)


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 10])
def test_check_11_a_run_stopped_after_any_step_ends_with_the_same_bytes(tmp_path: Path, stop: int):
    whole = started()
    expected_terms = run_to(whole, 10)

    first = started()
    terms = run_to(first, stop)
    checkpoint.save(first.snapshot(), tmp_path / "x")
    torch.manual_seed(99)
    second = started()
    second.restore(checkpoint.load(tmp_path / "x"))
    terms += run_to(second, 10)

    assert terms == expected_terms
    assert to_files(second.snapshot()) == to_files(whole.snapshot())


def test_a_snapshot_does_not_change_while_training_goes_on():
    run = started()
    run_to(run, 5)
    snapshot = run.snapshot()
    files = to_files(snapshot)
    run_to(run, 8)
    assert to_files(snapshot) == files


def test_a_state_holds_no_encoder():
    names = set(started().snapshot().weights)
    assert names == {"body.weight", "body.bias", "head.weight", "head.bias", "first_mean"}


def test_a_state_of_other_shapes_names_or_steps_is_refused():
    run = started()
    run_to(run, 5)
    state = run.snapshot()
    with pytest.raises(ValueError, match="step 5, this run has 3 steps"):
        started(first=1, second=2).restore(state)
    missing = {name: value for name, value in state.weights.items() if name != "head.bias"}
    with pytest.raises(ValueError, match=r"'head\.bias' is missing"):
        started().restore(checkpoint.State(5, missing, state.optimizer, state.random, {}))
    longer = {**state.weights, "tail": torch.ones(1)}
    with pytest.raises(ValueError, match="belongs to another architecture"):
        started().restore(checkpoint.State(5, longer, state.optimizer, state.random, {}))
    other = {**state.weights, "head.bias": torch.ones(4)}
    with pytest.raises(ValueError, match=r"'head\.bias' has shape \(4,\), not \(3,\)"):
        started().restore(checkpoint.State(5, other, state.optimizer, state.random, {}))


def test_a_term_that_is_no_number_stops_training_with_a_sentence():
    run = started()
    run_to(run, 2)
    with pytest.raises(Diverged, match=r"colour_loss became nan in step 3: lower the learning rate") as caught:
        run.advance({"content": torch.full((2, 3, 8, 8), float("nan"))})
    assert (caught.value.term, caught.value.step, run.step) == ("colour_loss", 3, 2)


def test_half_precision_trains_and_keeps_parameters_in_float32():
    run = started(precision="bf16")
    terms = run_to(run, 10)
    assert all(np.isfinite(list(step.values())).all() for step in terms)
    assert {p.dtype for p in run.task.parameters()} == {torch.float32}


def test_gradients_are_of_the_named_optimisers_and_leave_no_trace():
    run = started(first=0)
    loss = sum(run.task(batch(run)).values(), torch.zeros(()))
    head = run.task.gradients(loss, "head", retain_graph=True)
    both = run.task.gradients(loss)
    assert set(head.values) == set(run.task.head.parameters())
    assert set(both.values) == {*run.task.head.parameters(), *run.task.body.parameters()}
    assert all(parameter.grad is None for parameter in run.task.parameters())


def test_gradients_add_up_and_an_update_moves_only_their_optimisers():
    run = started(first=0)
    body = run.task.body.weight.detach().clone()
    loss = sum(run.task(batch(run)).values(), torch.zeros(()))
    head = run.task.gradients(loss, "head")
    double = sum([head, head], Gradients())
    bias = run.task.head.bias
    assert_close(double.values[bias], 2 * head.values[bias])
    run.task.update(head)
    assert torch.equal(run.task.body.weight, body)


def test_the_norm_of_a_gradient_is_clipped_over_all_parameters_together():
    run = started(first=4)
    before = [p.detach().clone() for p in run.task.head.parameters()]
    loss = 1000 * sum(run.task(batch(run)).values(), torch.zeros(()))
    gradients = run.task.gradients(loss)
    expected = sum(float((g**2).sum()) for g in gradients.values.values()) ** 0.5
    norm = run.task.update(gradients, clip_norm=0.5)
    assert norm.item() == pytest.approx(expected, rel=1e-5)
    after = [p.detach() for p in run.task.head.parameters()]
    moved = sum(float(((a - b) ** 2).sum()) for a, b in zip(after, before, strict=True)) ** 0.5
    assert moved == pytest.approx(0.5 * 1e-2, rel=1e-3), "plain SGD's first step is rate times gradient"


def averaging_worker(rank: int, port: int, result: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    run = started(first=0)
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = run.task({"content": pictures[rank : rank + 1]})["colour_loss"]
    run.task.update(run.task.gradients(loss))
    checkpoint.save_tensors({"weight": run.task.body.weight}, result / f"{rank}.safetensors")
    dist.destroy_process_group()


def test_two_workers_take_the_step_of_their_mean_gradient(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(averaging_worker, args=(port, tmp_path), nprocs=2)

    alone = started(first=0)
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = [alone.task({"content": pictures[n : n + 1]})["colour_loss"] for n in range(2)]
    alone.task.update(alone.task.gradients(torch.stack(losses).mean()))
    for rank in range(2):
        weight = checkpoint.load_tensors(tmp_path / f"{rank}.safetensors")["weight"]
        assert_close(weight, alone.task.body.weight.detach())


def test_what_happens_every_so_many_steps_also_happens_at_the_end():
    assert [step for step in range(11) if due(step, 4, 10)] == [4, 8, 10]
    config = build(TwoPhaseConfig, {"preview_every": 4})
    assert [step for step in range(11) if preview_due(config, step, 10)] == [4, 8, 10]


def test_given_hands_out_only_what_the_needs_name():
    given = Given(Needs(datasets={"content": "images"}))
    for name in ("encoder", "base", "style_image", "classes"):
        with pytest.raises(LookupError):
            getattr(given, name)


def test_on_a_cpu_networks_with_instance_norms_are_laid_out_channels_first_and_all_others_channels_last():
    task = small_run("metastyle/train").task
    for part, layout in (("network", torch.contiguous_format), ("encoder", torch.channels_last)):
        kernels = [weight for weight in task.get_submodule(part).parameters() if weight.ndim == 4]
        assert kernels
        assert all(weight.is_contiguous(memory_format=layout) for weight in kernels)
