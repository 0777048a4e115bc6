"""Who is next.

A job goes before another one if, in this order, its class has the higher level, its tenant has had less of the cluster
over its weight, its priority is higher, its deadline is earlier, it has waited longer. A job whose tenant has used up
its quota is passed over. If the first job does not fit, room is kept for it (`reserve.py`), and it may have others
preempted if its class does that. One in `overdue_every` claims is for the job that has waited longest, if that is
longer than `overdue_s`: nobody starves, whatever comes in. A job fits if its workers do, each whole on one node.

Short jobs take an idle warm worker beside all this, and wait for no room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from orchestrator.scheduling.nodes import Later, Nodes, Places
from orchestrator.scheduling.reserve import Reservation, passes, reserve, room_for
from orchestrator.scheduling.scene import Lane, Running, Scene, Waits, granted

LOOK_AHEAD = 16  # how many jobs of one lane are asked whether they are short enough to pass

Rank = tuple[bool, int, float, int, float, float, str]


class Grant(NamedTuple):
    """A job that may start now."""

    job: Waits
    lane: Lane
    workers: int
    warm: bool  # on a warm worker: it takes no room
    overdue: bool  # it was its turn by age
    places: Places  # where its workers go


class Decision(NamedTuple):
    """At most one of `grant` and `victims` is there; a job is kept room for in any case."""

    grant: Grant | None
    held: Reservation | None
    victims: tuple[str, ...] = ()  # jobs to preempt for it


class Candidate(NamedTuple):
    rank: Rank
    lane: Lane
    job: Waits


def decide(scene: Scene) -> Decision:
    """The next step; to be asked again, about what is then, until there is none."""
    if not _can_change(scene):
        return Decision(None, None)
    overdue = _overdue_lane(scene)
    fitting, first_blocked = _heads(scene, overdue)
    best = min(fitting, default=None)
    if first_blocked is None or (best is not None and best.rank < first_blocked.rank):
        return Decision(None if best is None else _grant(scene, best, None, overdue), None)
    return _behind(scene, fitting, first_blocked, overdue)


def rank(scene: Scene, lane: Lane, job: Waits, *, share: float, overdue: bool = False) -> Rank:
    """The smaller the earlier; `share` is its tenant's."""
    return (not overdue, -lane.level, share, -lane.priority, job.deadline, job.since, job.id)


def _can_change(scene: Scene) -> bool:
    """A look that costs little: some lane fits, or could make itself room."""
    cpus, gpus = scene.free
    return any(
        lane.jobs
        and (
            (
                lane.cpus * lane.min_workers <= cpus
                and lane.gpus * lane.min_workers <= gpus
                and scene.nodes.holds(lane.cpus, lane.gpus) >= lane.min_workers
            )
            or lane.preempts
            or (lane.short and scene.warm)
        )
        for lane in scene.lanes
    )


def needs_running(scene: Scene) -> bool:
    """Whether a decision depends on what runs: somebody ready does not fit."""
    return any(
        _first_ready(scene, lane) is not None and not (lane.short and scene.warm) and not granted(lane, scene.nodes)
        for lane in scene.lanes
    )


def _ready(scene: Scene, lane: Lane) -> Iterator[Waits]:
    return (job for job in islice(lane.jobs, LOOK_AHEAD) if job.ready_at <= scene.now)


def _first_ready(scene: Scene, lane: Lane) -> Waits | None:
    jobs = lane.jobs
    if not jobs or jobs[0].ready_at <= scene.now:
        return jobs[0] if jobs else None
    return next(_ready(scene, lane), None)


def _may_ever(scene: Scene, lane: Lane) -> bool:
    """The tenant's quota has room for its fewest workers, and the whole cluster too."""
    cpus, gpus = lane.cpus * lane.min_workers, lane.gpus * lane.min_workers
    return scene.tenants[lane.tenant].may_hold(cpus, gpus) and (
        scene.whole.holds(lane.cpus, lane.gpus) >= lane.min_workers or bool(lane.short and scene.warm)
    )


def _heads(scene: Scene, overdue: Lane | None) -> tuple[list[Candidate], Candidate | None]:
    """The first job of every lane that fits now, and the first of all that do not."""
    shares: dict[str, float] = {}
    fitting: list[Candidate] = []
    blocked: Candidate | None = None
    free_cpus, free_gpus = scene.free
    for lane in scene.lanes:
        fits = (
            lane.cpus * lane.min_workers <= free_cpus
            and lane.gpus * lane.min_workers <= free_gpus
            and scene.nodes.holds(lane.cpus, lane.gpus) >= lane.min_workers
        ) or (lane.short and scene.warm > 0)
        if not fits and blocked is not None and lane.level < -blocked.rank[1] and lane is not overdue:
            continue  # certainly behind it
        job = _first_ready(scene, lane)
        if job is None or not _may_ever(scene, lane):
            continue
        if (share := shares.get(lane.tenant)) is None:
            share = shares[lane.tenant] = scene.tenants[lane.tenant].share(scene.total, scene.now)
        candidate = Candidate(rank(scene, lane, job, share=share, overdue=lane is overdue), lane, job)
        if fits:
            fitting.append(candidate)
        elif blocked is None or candidate.rank < blocked.rank:
            blocked = candidate
    return fitting, blocked


def _overdue_lane(scene: Scene) -> Lane | None:
    """The lane of the job that has waited longest, if it is that job's turn."""
    if scene.since_overdue < scene.rules.overdue_every - 1:
        return None
    before = scene.now - scene.rules.overdue_s
    heads = [
        (job.since, lane.key, lane)
        for lane in scene.lanes
        if (job := _first_ready(scene, lane)) is not None and job.since <= before and _may_ever(scene, lane)
    ]
    return min(heads, key=lambda head: head[:2])[2] if heads else None


def _behind(scene: Scene, fitting: list[Candidate], blocked: Candidate, overdue: Lane | None) -> Decision:
    """The first job does not fit: others make room for it, or pass it as far as they may."""
    held = reserve(scene, blocked.lane, blocked.job)
    if blocked.lane.preempts and (victims := choose_victims(scene, blocked.lane, held)):
        return Decision(None, held, victims)
    for candidate in sorted(fitting):
        if candidate.rank < blocked.rank:
            return Decision(_grant(scene, candidate, None, overdue), held)
        job = _who_passes(scene, candidate, held)
        if job is not None and (grant := _grant(scene, candidate._replace(job=job), held, overdue)) is not None:
            return Decision(grant, held)
    return Decision(None, held)


def _who_passes(scene: Scene, candidate: Candidate, held: Reservation) -> Waits | None:
    """The first of a lane's jobs that may start though `held` waits."""
    lane = candidate.lane
    if (lane.short and scene.warm) or _granted(scene, lane, held.spare(scene)):
        return candidate.job
    return next((job for job in _ready(scene, lane) if passes(scene, job, held)), None)


def _grant(scene: Scene, candidate: Candidate, held: Reservation | None, overdue: Lane | None) -> Grant | None:
    _, lane, job = candidate
    if lane.short and scene.warm:
        return Grant(job, lane, 1, warm=True, overdue=lane is overdue, places={})
    nodes = room_for(scene, job, held)
    workers = _granted(scene, lane, nodes)
    if not workers:
        return None
    places = nodes.best_fit(lane.cpus, lane.gpus, workers)
    return Grant(job, lane, workers, warm=False, overdue=lane is overdue, places=places)


def _granted(scene: Scene, lane: Lane, nodes: Nodes) -> int:
    return granted(lane, nodes, scene.tenants[lane.tenant].left(nodes.sum))


def choose_victims(scene: Scene, lane: Lane, held: Reservation) -> tuple[str, ...]:
    """Few jobs whose end makes room for `lane`'s fewest workers, young ones.

    None of them where room comes soon, or has been asked for already, or where all together would not do.
    """
    if held.at - scene.now <= scene.rules.preempt_after_s:
        return ()
    coming = Later(scene.nodes, lane.cpus, lane.gpus)
    if coming.end(run.held for run in scene.running if run.stopping) >= lane.min_workers:
        return ()
    able = [run for run in scene.running if _may_be_preempted(scene, run, lane)]
    after = coming.nodes()
    cpus, gpus = lane.cpus * lane.min_workers - after.sum.cpus, lane.gpus * lane.min_workers - after.sum.gpus
    if sum(run.cpus for run in able) < cpus or sum(run.gpus for run in able) < gpus:
        return ()
    if coming.end(run.held for run in able) < lane.min_workers:
        return ()
    able.sort(key=lambda run: (run.level, -run.started, run.id))
    for run in able:
        enough = run.cpus >= cpus and run.gpus >= gpus
        if enough and Later(after, lane.cpus, lane.gpus).end([run.held]) >= lane.min_workers:
            return (run.id,)
    return _fewest(coming.nodes(), able, lane)


def _may_be_preempted(scene: Scene, run: Running, lane: Lane) -> bool:
    return (
        run.preemptible
        and run.level < lane.level
        and not run.stopping
        and run.preemptions < scene.rules.most_preemptions
    )


def _fewest(nodes: Nodes, able: Sequence[Running], lane: Lane) -> tuple[str, ...]:
    """All of them, but for those that turn out to be superfluous: the small ones are let off first, then the old.

    nodes: when all have made room.
    """
    chosen = list(able)
    for run in sorted(able, key=lambda run: (run.gpus, run.cpus, -run.level, run.started)):
        nodes.take(run.held)
        if nodes.holds(lane.cpus, lane.gpus) >= lane.min_workers:
            chosen.remove(run)
        else:
            nodes.give(run.held)
    return tuple(run.id for run in chosen)
