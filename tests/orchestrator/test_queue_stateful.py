"""The life of jobs under any order of claims, starts, batches, losses, wishes and late workers.

A model beside the real queue says what must hold after every step: moves only along `states.MOVES`, gapless events, one
end, room and quotas that add up and are never exceeded, and nothing written by an attempt that is not the newest of an
active job. Jobs are of several tenants, classes and sizes; higher ones have lower ones preempted, deadlines pass.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlalchemy import select, update

from orchestrator.states import ACTIVE, MOVES, TERMINAL, ErrorType, Move, Status
from orchestrator.store import claims, deadlines, queue
from orchestrator.store.database import Database
from orchestrator.store.queue import Batch, Ticket
from orchestrator.store.tables import Attempt, Base, Job, Ledger, Tenant
from tests.orchestrator.queueing import (
    add_tenant,
    begin,
    claim,
    event_ids,
    give_room,
    metrics,
    queue_job,
    status_events,
)

CPUS = 3
QUOTAS = {"tenant_1": 2, "tenant_2": None}  # max_cpus
CLASSES = ("spare", "standard", "urgent")


class Queue(RuleBasedStateMachine):
    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.db = Database(f"sqlite:///{Path(self.folder.name) / 'queue.db'}")
        Base.metadata.create_all(self.db.engine)
        give_room(self.db, cpus=CPUS)
        for tenant, max_cpus in QUOTAS.items():
            add_tenant(self.db, tenant, max_cpus=max_cpus)
        self.jobs: list[str] = []
        self.values: dict[tuple[str, int], float] = {}  # (job, step) -> what a worker that counted wrote last

    def teardown(self) -> None:
        self.db.dispose()
        self.folder.cleanup()

    def row(self, job_id: str) -> Job:
        with self.db.read() as tx:
            return tx.get_one(Job, job_id)

    def counts(self, ticket: Ticket) -> bool:
        job = self.row(ticket.job_id)
        return job.attempt == ticket.attempt and job.status in ACTIVE

    @rule(
        cpus=st.integers(0, CPUS),
        retries=st.integers(0, 2),
        tenant=st.sampled_from(sorted(QUOTAS)),
        class_=st.sampled_from(CLASSES),
        workers=st.integers(1, 2),
    )
    def submit(self, cpus: int, retries: int, tenant: str, class_: str, workers: int) -> None:
        if len(self.jobs) < 6:
            name = f"job_{len(self.jobs)}"
            queue_job(
                self.db, name, tenant=tenant, cpus=cpus, max_retries=retries, class_=class_, workers=workers
            )  # fmt: skip
            self.jobs.append(name)

    @rule(target=tickets)
    def claim(self) -> Ticket:
        with self.db.write() as tx:  # a back-off that has passed
            for job in tx.scalars(select(Job)):
                job.not_before = 0.0
        ticket = claim(self.db)
        if ticket is None:
            self.check_that_nothing_idles()
            return Ticket("job_none", 0)
        assert self.row(ticket.job_id).attempt == ticket.attempt
        return ticket

    def check_that_nothing_idles(self) -> None:
        """Whoever could start and does not is kept from it by somebody who goes first and does not fit."""
        with self.db.read() as tx:
            queued = tx.scalars(select(Job).where(Job.status == Status.QUEUED)).all()
            free = CPUS - tx.scalars(select(Ledger.cpus_taken)).one()
            held = {tenant.id: tenant.cpus_taken for tenant in tx.scalars(select(Tenant))}

        def by_quota(job: Job) -> bool:
            most = QUOTAS[job.tenant_id]
            return most is None or job.cpus == 0 or held[job.tenant_id] + job.cpus <= most

        able = [job for job in queued if by_quota(job)]
        assert not any(job.cpus <= free for job in able) or any(job.cpus > free for job in able)

    @rule()
    def make_room(self) -> None:
        with self.db.write() as tx:
            for moved in claims.make_room(tx):
                victim = tx.get_one(Job, moved.job_id)
                assert (moved.status, victim.class_) == (Status.PREEMPTING, "spare")

    @rule(n=st.integers(0, 5))
    def miss_the_deadline(self, n: int) -> None:
        if n >= len(self.jobs):
            return
        before = Status(self.row(self.jobs[n]).status)
        with self.db.write() as tx:
            tx.execute(update(Job).where(Job.id == self.jobs[n]).values(deadline=1.0))
            late = deadlines.passed(tx)
            assert (self.jobs[n] in late) == ((before, Move.LAPSE) in MOVES)
            for name in late:
                assert deadlines.lapse(tx, name) is not None
            tx.execute(update(Job).where(Job.id == self.jobs[n]).values(deadline=None))

    @rule(ticket=tickets, resumed_from=st.integers(0, 3))
    def begin(self, ticket: Ticket, resumed_from: int) -> None:
        if ticket.job_id not in self.jobs:
            return
        may = self.counts(ticket) and self.row(ticket.job_id).status == Status.STARTING
        assert begin(self.db, ticket, resumed_from=resumed_from) == may
        if may:
            self.values = {k: v for k, v in self.values.items() if k[0] != ticket.job_id or k[1] <= resumed_from}

    @rule(ticket=tickets, step=st.integers(1, 5), value=st.floats(0, 1))
    def record(self, ticket: Ticket, step: int, value: float) -> None:
        if ticket.job_id not in self.jobs:
            return
        may = self.counts(ticket)
        with self.db.write() as tx:
            wrote = queue.record(tx, ticket, Batch(step=step, points={"loss": [(step, value)]}), lease_s=15.0)
        assert (wrote is not None) == may
        if may:
            self.values[ticket.job_id, step] = value

    @rule(ticket=tickets, how=st.sampled_from(["finish", "fail", "invalid", "lost", "give_back", "stop", "expire"]))
    def end(self, ticket: Ticket, how: str) -> None:
        if ticket.job_id not in self.jobs:
            return
        counted = self.counts(ticket)
        with self.db.write() as tx:
            moved = {
                "finish": lambda: queue.finish(tx, ticket, None),
                "fail": lambda: queue.fail(tx, ticket, ErrorType.INTERNAL, "boom"),
                "invalid": lambda: queue.fail(tx, ticket, ErrorType.INVALID, "no"),
                "lost": lambda: queue.lost(tx, ticket, "gone"),
                "give_back": lambda: queue.give_back(tx, ticket, "away"),
                "stop": lambda: queue.stop(tx, ticket),
                "expire": lambda: queue.fail(tx, ticket, ErrorType.TIMEOUT, "over"),
            }[how]()
        assert moved is None or (counted and moved.status not in ACTIVE)

    @rule(wish=st.sampled_from([Move.PAUSE, Move.RESUME, Move.CANCEL]), n=st.integers(0, 5))
    def wish(self, wish: Move, n: int) -> None:
        if n >= len(self.jobs):
            return
        before = Status(self.row(self.jobs[n]).status)
        with self.db.write() as tx:
            moved = queue.move(tx, self.jobs[n], wish)
        assert (moved.status if moved else None) == MOVES.get((before, wish))

    @invariant()
    def statuses_follow_the_table_and_end_once(self) -> None:
        allowed = {(source, target) for (source, _), target in MOVES.items()}
        for job_id in self.jobs:
            history = [Status(s) for s in status_events(self.db, job_id)]
            assert history[-1] == self.row(job_id).status
            assert set(itertools.pairwise(history)) <= allowed
            assert not set(history[:-1]) & set(TERMINAL)

    @invariant()
    def events_have_no_gap(self) -> None:
        for job_id in self.jobs:
            ids = event_ids(self.db, job_id)
            assert ids == list(range(1, self.row(job_id).events + 1))

    @invariant()
    def room_and_quotas_add_up(self) -> None:
        at_work = select(Job, Attempt.workers).join(
            Attempt, (Attempt.job_id == Job.id) & (Attempt.attempt == Job.attempt)
        )
        with self.db.read() as tx:
            taken = tx.scalars(select(Ledger.cpus_taken)).one()
            active = tx.execute(at_work.where(Job.status.in_(ACTIVE))).all()
            tenants = tx.scalars(select(Tenant)).all()
        assert taken == sum(job.cpus * workers for job, workers in active) <= CPUS
        for tenant in tenants:
            held = sum(job.cpus * workers for job, workers in active if job.tenant_id == tenant.id)
            assert tenant.cpus_taken == held
            assert tenant.max_cpus is None or held <= tenant.max_cpus
        assert all(job.min_workers <= workers <= job.workers for job, workers in active)

    @invariant()
    def metrics_are_those_of_attempts_that_counted(self) -> None:
        for job_id in self.jobs:
            expected = {step: value for (name, step), value in self.values.items() if name == job_id}
            assert metrics(self.db, job_id, "loss") == expected


Queue.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestQueueUnderAnyOrderOfEvents = Queue.TestCase
