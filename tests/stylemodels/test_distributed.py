"""Several workers, each on its part of the batch, do what one does on all of it.

Ranks are threads of this process with real connections between them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from stylemodels import checkpoint
from stylemodels.checkpoint import State
from stylemodels.distributed import ALONE, Group, PeerLost, gloo, part_of, weight_of
from stylemodels.method import Batch, Stream, Task
from stylemodels.train import Diverged, Run
from tests.stylemodels.test_methods import CLASSES, TASKS
from tests.stylemodels.toy import batch_of, same, small_task

T = TypeVar("T")
LIMIT = timedelta(seconds=60)
BETA1 = 0.9  # Adam's: after its first step the first moment is (1 - BETA1) times the gradient
DIVIDED: Mapping[str, Any] = {"batch_size": 4, "meta_batch": 4, "steps": 2, "decoder_steps": 2, "warmup_step1": 2}


def together(size: int, work: Callable[[Group], T]) -> list[T]:
    """What `work` returns as each rank of a group of threads."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=LIMIT, wait_for_workers=False)

    def as_rank(rank: int) -> T:
        channel = gloo(store.clone(), rank, size, address="127.0.0.1", timeout=LIMIT)
        return work(Group(rank, size, tensors=channel, words=channel))

    with ThreadPoolExecutor(size) as threads:
        return [future.result() for future in [threads.submit(as_rank, rank) for rank in range(size)]]


def part(batch: Batch, streams: Mapping[str, Stream], group: Group) -> dict[str, Tensor]:
    parts = {name: part_of(stream, group.rank, group.size) for name, stream in streams.items()}
    return {name: pictures[parts[name.removesuffix("_label")]] for name, pictures in batch.items()}


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def settings_of(name: str, **changes: Any) -> dict[str, Any]:
    fields = CLASSES[name].Config.__dataclass_fields__
    return {key: value for key, value in (dict(DIVIDED) | changes).items() if key in fields}


def exact_task(name: str, **changes: Any) -> Task:
    return small_task(name, **settings_of(name, **changes)).double()


def one_step(task: Task, state: State | None, group: Group = ALONE) -> tuple[dict[str, float], State]:
    """The terms of the step after `state`, and what it left."""
    run = Run(task, seed=0, group=group)
    if state is not None:
        run.restore(state)
    streams = run.streams()
    terms = run.advance(part(batch_of(streams, run.step), streams, group))
    return terms, run.snapshot()


def gradients(state: State) -> dict[str, Tensor]:
    return {path: moment / (1 - BETA1) for path, moment in state.optimizer.items() if path.endswith("/exp_avg")}


def assert_same_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """To a relative 1e-6, each parameter's; what cancels out by itself is noise beside the others."""
    assert found.keys() == expected.keys() != set()
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for path, gradient in expected.items():
        error = (found[path] - gradient).norm()
        assert error <= 1e-6 * gradient.norm() + 1e-12 * whole, path


def starts_of_phases(name: str, **changes: Any) -> list[State]:
    """One worker's state in front of the first step of every phase."""
    run = Run(exact_task(name, **changes), seed=0)
    states = []
    while run.step < run.total_steps:
        if run.task.step == 0:
            states.append(run.snapshot())
        run.advance(batch_of(run.streams(), run.step))
    return states


EXACT = [name for name in TASKS if CLASSES[name].shared_out is not None and CLASSES[name].batch_loss != "own"]


def assert_a_shared_step_is_the_whole_one(name: str, workers: int, state: State, **changes: Any) -> None:
    alone_terms, alone = one_step(exact_task(name, **changes), state)
    tasks = [exact_task(name, **changes) for _ in range(workers)]
    ranks = together(workers, lambda group: one_step(tasks[group.rank], state, group))

    for terms, left in ranks:
        assert_same_gradients(gradients(left), gradients(alone))
        assert terms == ranks[0][0], "every rank knows the terms of the whole batch"
        assert same(left.weights, ranks[0][1].weights)
    for term, value in alone_terms.items():
        if term != "inner_gain":  # of each worker's first style
            assert ranks[0][0][term] == pytest.approx(value, rel=1e-6), term


@pytest.mark.parametrize("name", EXACT)
def test_two_workers_with_half_the_batch_each_have_the_gradients_of_one_with_all_of_it(
    name: str, float64: None
) -> None:
    """In every phase."""
    for state in starts_of_phases(name):
        assert_a_shared_step_is_the_whole_one(name, 2, state)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("adain/train", {}), ("metastyle/train", {"resample_per_style": True}), ("linear/train-filter", {})],
)
def test_a_batch_that_does_not_come_out_even_counts_every_picture_the_same(
    name: str, changes: dict[str, Any], float64: None
) -> None:
    """Three share out four pictures as 1, 1 and 2; with photos of its own a style keeps them."""
    assert_a_shared_step_is_the_whole_one(name, 3, starts_of_phases(name, **changes)[0], **changes)


def test_every_task_says_which_setting_its_workers_share_out() -> None:
    for name in TASKS:
        setting = CLASSES[name].shared_out
        assert setting is None or setting in CLASSES[name].Config.__dataclass_fields__, name


def test_ranks_take_over_what_rank_0_has_restored() -> None:
    """Weights, optimisers, random states and the place in the training."""
    trained = Run(small_task("adain/train"), seed=3)
    for _ in range(2):
        trained.advance(batch_of(trained.streams(), trained.step))
    state = trained.snapshot()
    tasks = [small_task("adain/train", seed=rank) for rank in range(2)]

    def join(group: Group) -> State:
        run = Run(tasks[group.rank], seed=3, group=group)
        if group.rank == 0:
            run.restore(state)
        run.agree()
        return run.snapshot()

    first, second = together(2, join)
    assert checkpoint.to_files(second) == checkpoint.to_files(first)
    assert (second.step, same(second.weights, state.weights)) == (2, True)


def test_all_leave_at_the_step_whose_loss_is_no_number_whoever_had_the_picture() -> None:
    tasks = [small_task("adain/train") for _ in range(2)]

    def diverge(group: Group) -> int:
        run = Run(tasks[group.rank], seed=0, group=group)
        whole = batch_of(run.streams())
        run.advance(part(whole, run.streams(), group))
        whole["content"][1] = float("nan")  # rank 1's
        with pytest.raises(Diverged):
            run.advance(part(whole, run.streams(), group))
        return run.step

    assert together(2, diverge) == [1, 1]


def test_who_waits_for_a_worker_that_leaves_is_told_so() -> None:
    waits = threading.Event()

    def leave(group: Group) -> None:
        numbers = torch.ones(3)
        group.add_up(numbers)
        assert numbers.tolist() == [2, 2, 2]
        if group.rank == 1:
            assert waits.wait(30)
            group.close()
        else:
            waits.set()
        with pytest.raises(PeerLost):
            group.add_up(numbers)

    together(2, leave)


def test_words_and_uneven_parts_arrive_as_they_were() -> None:
    def exchange(group: Group) -> tuple[bytes, list[float]]:
        part = torch.arange(group.rank + 1.0) + 10 * group.rank
        return group.words_of_first(b"go on" if group.rank == 0 else b"not this"), group.joined(part).tolist()

    assert together(3, exchange) == [(b"go on", [0, 10, 11, 20, 21, 22])] * 3


def stream(count: int, **options: Any) -> Stream:
    return Stream("content", count=count, size=32, **options)


@pytest.mark.parametrize(
    ("given", "workers", "parts"),
    [
        (stream(6), 3, [(0, 2), (2, 4), (4, 6)]),
        (stream(7), 3, [(0, 2), (2, 4), (4, 7)]),
        (stream(6, per_class=2), 2, [(0, 2), (2, 6)]),
        (stream(6, together=3), 2, [(0, 3), (3, 6)]),
        (stream(4, whole=True), 2, [(0, 4), (0, 4)]),
    ],
)
def test_parts_lie_one_after_the_other_and_keep_together_what_belongs_together(
    given: Stream, workers: int, parts: list[tuple[int, int]]
) -> None:
    found = [part_of(given, rank, workers) for rank in range(workers)]
    assert [(one.start, one.stop) for one in found] == parts
    if not given.whole:
        assert sum(weight_of([given], rank, workers) for rank in range(workers)) == pytest.approx(1)


def test_what_cannot_be_shared_out_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="2 pictures a step cannot be shared out to 3 workers"):
        part_of(stream(2), 0, 3)
    with pytest.raises(ValueError, match="3 and 4 pictures a step cannot be shared out to 2 workers in the same"):
        weight_of([stream(3), stream(4)], 0, 2)
    with pytest.raises(ValueError, match="cannot be shared out to 3 workers"):
        Run(small_task("adain/train"), seed=0, group=Group(0, 3))


@pytest.mark.parametrize("name", ["linear/train", "wct/train"])
def test_workers_pass_from_phase_to_phase_together(name: str) -> None:
    tasks = [small_task(name, **settings_of(name)) for _ in range(2)]

    def train(group: Group) -> Run:
        run = Run(tasks[group.rank], seed=0, group=group)
        while run.step < run.total_steps:
            streams = run.streams()
            run.advance(part(batch_of(streams, run.step), streams, group))
        return run

    first, second = together(2, train)
    assert len(first.phases) > 1
    assert same(first.snapshot().weights, second.snapshot().weights)
