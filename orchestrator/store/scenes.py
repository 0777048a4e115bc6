"""The queue as the policy sees it: the first jobs of every lane, tenants' accounts, what runs.

A lane holds jobs that are alike in all that decides about room: tenant, class, priority, shape. Its key is in the job's
row, and the index of the queue is walked from lane to lane, so that a look costs by the number of lanes and not of
jobs. Rows of an older release have no key and share one lane; the policy goes by their columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import TextClause, and_, func, literal, select, text, true
from sqlalchemy.orm import Session

from orchestrator.scheduling.classes import DEFAULT_CLASSES, UNDECLARED, PriorityClass, parse_classes
from orchestrator.scheduling.nodes import POOL, Nodes, held
from orchestrator.scheduling.scene import RULES, UNKNOWN, Lane, Running, Scene, Waits
from orchestrator.scheduling.shares import Room
from orchestrator.states import ACTIVE, Status
from orchestrator.store import accounts
from orchestrator.store.database import db_now
from orchestrator.store.lanes import is_short
from orchestrator.store.tables import Attempt, Job, Json, Ledger

Classes = Mapping[str, PriorityClass]
CLASSES: Classes = parse_classes(DEFAULT_CLASSES)

MOST_LANES = 64  # of one tenant that are looked at; whoever has more kinds of waiting jobs waits for the first ones
TENANT_CHARACTERS = 33  # tenant_…: what a key begins with
STOPPING = (Status.PAUSING, Status.PREEMPTING, Status.CANCELLING)

OF_TENANT = f"substr({{}}, 1, {TENANT_CHARACTERS})"
NTH = f"""CASE WHEN {OF_TENANT.format("walk.lane")} = {OF_TENANT.format("walk.before")} THEN walk.nth + 1 ELSE 1 END"""
WALK = f"""
WITH RECURSIVE walk(before, lane, nth) AS (
    SELECT {{empty}}, (SELECT min(lane) FROM jobs WHERE status = 'queued' AND kind = 'train'), 0
    UNION ALL
    SELECT walk.lane,
        (SELECT min(jobs.lane) FROM jobs WHERE jobs.status = 'queued' AND jobs.kind = 'train' AND jobs.lane >
            CASE WHEN {NTH} < {MOST_LANES} THEN walk.lane ELSE {OF_TENANT.format("walk.lane")} || '~' END),
        {NTH}
    FROM walk WHERE walk.lane IS NOT NULL
)
"""  # nth: of `before`, among the lanes of its tenant
EMPTY = {"sqlite": "''", "postgresql": "'' COLLATE \"C\""}  # of the kind that keys are
COLUMNS = (
    "id", "tenant_id", "class", "priority", "cpus", "gpus", "workers", "min_workers", "task", "deadline", "created_at",
    "queued_at", "not_before", "timeout_s", "running_s", "step", "total_steps", "lane", "estimate",
)  # fmt: skip
HEADS = """
    SELECT {columns} FROM jobs AS heads
    WHERE heads.status = 'queued' AND heads.kind = 'train' AND heads.lane = walk.lane AND heads.not_before <= :ready_by
    ORDER BY heads.deadline, heads.id LIMIT :width
"""


def _walk(dialect: str) -> str:
    return WALK.format(empty=EMPTY[dialect])


def _label(name: str) -> str:
    return "class_" if name == "class" else name


def _heads(dialect: str) -> TextClause:
    """The first jobs of every lane. SQLite has no LATERAL, and PostgreSQL would read everything for the IN."""
    columns = ", ".join(f"jobs.{name} AS {_label(name)}" for name in COLUMNS)
    if dialect == "sqlite":
        source = f"walk CROSS JOIN jobs ON jobs.id IN ({HEADS.format(columns='heads.id')})"
    else:
        every = ", ".join(f"heads.{name}" for name in COLUMNS)
        source = f"walk CROSS JOIN LATERAL ({HEADS.format(columns=every)}) AS jobs"
    return text(f"{_walk(dialect)} SELECT {columns} FROM {source} WHERE walk.lane IS NOT NULL")


HEADS_OF = {dialect: _heads(dialect).columns(estimate=Json) for dialect in EMPTY}
LEDGER = select(
    *(func.coalesce(column, 0).label(column.key) for column in (
        Ledger.cpus, Ledger.gpus, Ledger.cpus_taken, Ledger.gpus_taken, Ledger.warm, Ledger.overdue_turn
    )),
    Ledger.turn,
    Ledger.nodes,
    db_now().label("now"),
).select_from(select(literal(1)).subquery().outerjoin(Ledger, true()))  # fmt: skip
AT_WORK = (
    select(
        Job.id, Job.class_, Job.cpus, Job.gpus, Job.status, Job.step, Job.total_steps, Job.timeout_s, Job.running_s,
        Job.deadline, Job.estimate, Job.preemptions, Attempt.workers.label("workers_taken"), Attempt.warm,
        Attempt.claimed_at, Attempt.started_at, Attempt.resumed_from, Attempt.nodes,
    )
    .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
    .where(Job.status.in_(ACTIVE))
)  # fmt: skip
PLACED = (
    select(Job.cpus, Job.gpus, Attempt.nodes)
    .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
    .where(Job.status.in_(ACTIVE), Attempt.nodes.is_not(None))
)
COUNT_LANES = {dialect: text(f"{_walk(dialect)} SELECT count(walk.lane) FROM walk") for dialect in EMPTY}


def count_lanes(tx: Session) -> int:
    """How many lanes have waiting jobs."""
    return int(tx.execute(COUNT_LANES[tx.get_bind().dialect.name]).scalar_one())


class Look(NamedTuple):
    """The queue at an instant."""

    scene: Scene
    turn: int | None  # of the ledger: a claim counts only if there was none since; None: there is no ledger yet
    warm: int  # warm workers that were ready when a dispatcher looked last


def look(tx: Session, classes: Classes, *, width: int, ready_only: bool) -> Look:
    """What the policy needs to know, but for what runs.

    width: jobs of each lane. ready_only: without those in back-off.
    """
    found = tx.execute(LEDGER).one()
    values = {"width": width, "ready_by": found.now if ready_only else math.inf}
    rows = tx.execute(HEADS_OF[tx.get_bind().dialect.name], values).all()
    whole = Nodes({POOL: Room(found.cpus, found.gpus)})
    if found.nodes is not None:
        whole = Nodes({node: Room(*room) for node, room in found.nodes.items()})
    scene = Scene(
        now=found.now,
        whole=whole,
        nodes=_free(tx, whole, Room(found.cpus - found.cpus_taken, found.gpus - found.gpus_taken)),
        lanes=_lanes(rows, classes, width),
        tenants=accounts.read(tx, {row.tenant_id for row in rows}) if rows else {},
        since_overdue=(found.turn or 0) - found.overdue_turn,
    )
    return Look(scene, found.turn, found.warm)


def _free(tx: Session, whole: Nodes, left: Room) -> Nodes:
    """What is free on each node; `left` in all, by the ledger.

    What is held on nodes that are gone or were never told is taken from any: the sums agree, and nobody gets too much.
    """
    nodes = whole.copy()
    if POOL not in whole.rooms:
        for row in tx.execute(PLACED):
            nodes.take(held(row.nodes, row.cpus, row.gpus))
    nodes = Nodes({node: Room(max(0, room.cpus), max(0, room.gpus)) for node, room in nodes.rooms.items()})
    for node, room in nodes.rooms.items():
        over_cpus, over_gpus = nodes.sum.cpus - max(0, left.cpus), nodes.sum.gpus - max(0, left.gpus)
        cpus, gpus = room.cpus - max(0, over_cpus), room.gpus - max(0, over_gpus)
        nodes.put(node, Room(max(0, cpus), max(0, gpus)))
    return nodes


def _lanes(rows: Sequence[Any], classes: Classes, width: int) -> list[Lane]:
    """Jobs of one key are of one lane, unless an older release has written them."""
    per_key = Counter(row.lane for row in rows)
    lanes: dict[tuple[Any, ...], Lane] = {}
    waiting: dict[tuple[Any, ...], list[Waits]] = {}
    for row in rows:
        alike = (row.lane, row.tenant_id, row.class_, row.priority, row.cpus, row.gpus, row.workers, row.min_workers)
        key = (*alike, row.task == "adapt")
        if key not in lanes:
            waiting[key] = []
            lanes[key] = _lane(row, classes.get(row.class_, UNDECLARED), waiting[key], per_key[row.lane] < width)
        waiting[key].append(_waits(row))
    for jobs in waiting.values():
        jobs.sort(key=lambda job: (job.deadline, job.id))
    return list(lanes.values())


def _lane(row: Any, declared: PriorityClass, jobs: list[Waits], is_whole: bool) -> Lane:
    return Lane(
        tenant=row.tenant_id,
        level=declared.level,
        jobs=jobs,
        priority=row.priority,
        cpus=row.cpus,
        gpus=row.gpus,
        workers=row.workers,
        min_workers=row.min_workers,
        preempts=declared.preempts,
        short=is_short("train", row.task, row.gpus, row.workers),
        key=row.lane,
        is_whole=is_whole,
    )


def _waits(row: Any) -> Waits:
    left_s: float = UNKNOWN if row.timeout_s is None else max(0.0, row.timeout_s - row.running_s)
    return Waits(
        id=row.id,
        since=row.created_at if row.queued_at is None else row.queued_at,
        length_s=min(left_s, _estimated_s(row)),
        deadline=math.inf if row.deadline is None else row.deadline,
        ready_at=row.not_before,
    )


def _estimated_s(row: Any) -> float:
    """How long the rest of a job takes by its estimate, on the safe side."""
    if row.estimate is None or not row.total_steps:
        return UNKNOWN
    return float(row.estimate["high"] * (1 - row.step / row.total_steps))


def running(tx: Session, classes: Classes, now: float) -> list[Running]:
    """Everything that holds room, in the order of its expected end."""
    found = [_running(row, classes.get(row.class_, UNDECLARED), now) for row in tx.execute(AT_WORK)]
    return sorted(found, key=lambda run: run.ends)


def _running(row: Any, declared: PriorityClass, now: float) -> Running:
    took = 0 if row.warm else row.workers_taken
    places = {POOL: took} if row.nodes is None else row.nodes
    return Running(
        id=row.id,
        level=declared.level,
        cpus=row.cpus * took,
        gpus=row.gpus * took,
        started=row.claimed_at,
        ends=_expected_end(row, now),
        warm=row.warm,
        preemptible=declared.preemptible and bool(took),
        preemptions=row.preemptions,
        stopping=row.status in STOPPING,
        held=held(places, row.cpus, row.gpus),
    )


def _expected_end(row: Any, now: float) -> float:
    """By its own pace, else by its estimate; no later than its timeout and its deadline allow."""
    if row.status in STOPPING:
        return now + RULES.stop_s
    began = row.claimed_at if row.started_at is None else row.started_at
    done = row.step - (row.resumed_from or 0)
    if row.started_at is not None and done > 0:
        ends: float = now + max(0.0, (now - began) * (row.total_steps - row.step) / done)
    else:
        ends = began + _estimated_s(row)
    latest: float = UNKNOWN if row.timeout_s is None else began + row.timeout_s - row.running_s
    deadline: float = UNKNOWN if row.deadline is None else row.deadline
    return min(ends, latest, deadline)
