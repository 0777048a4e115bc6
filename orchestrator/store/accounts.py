"""Tenants' accounts: what they may have, hold, and have held. The policy reads them (`scheduling.shares`).

Rows are locked in the order job, tenant, ledger by everybody.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import and_, func, literal, or_, select, update
from sqlalchemy.orm import Session

from orchestrator.scheduling.classes import DEFAULT_CLASS
from orchestrator.scheduling.shares import Room
from orchestrator.scheduling.shares import Tenant as Account
from orchestrator.states import ACTIVE, Phase, Status, phase_of
from orchestrator.store import lanes
from orchestrator.store.database import db_now
from orchestrator.store.tables import Attempt, Job, Ledger, Tenant

COLUMNS = (
    Tenant.id, Tenant.weight, Tenant.max_cpus, Tenant.max_gpus, Tenant.cpus_taken, Tenant.gpus_taken, Tenant.cpus_mean,
    Tenant.gpus_mean, Tenant.mean_at,
)  # fmt: skip


MOST_COUNTED = 100_000


class Usage(NamedTuple):
    """A tenant's account as it is shown."""

    tenant: Tenant
    share: float  # of the cluster, lately and now, over its weight: the tenant with the smallest is next
    waiting: int  # jobs, counted up to MOST_COUNTED


def read(tx: Session, tenants: Collection[str]) -> dict[str, Account]:
    """The accounts of these tenants."""
    return {row.id: _account(row) for row in tx.execute(select(*COLUMNS).where(Tenant.id.in_(tenants)))}


def locked(tx: Session, tenant: str) -> Account:
    """A tenant's account, which nobody else changes before this transaction ends.

    FOR NO KEY UPDATE: a submit's foreign key needs not wait for it.
    """
    query = select(*COLUMNS).where(Tenant.id == tenant).with_for_update(key_share=True)
    return _account(tx.execute(query).one())


def hold(tx: Session, tenant: str, account: Account, cpus: int, gpus: int) -> None:
    """Take room for a tenant whose account is locked, or give it back: negative."""
    account.hold(cpus, gpus, tx.scalars(select(db_now())).one())
    values: dict[str, Any] = {
        "cpus_taken": account.cpus,
        "gpus_taken": account.gpus,
        "cpus_mean": account.cpus_mean,
        "gpus_mean": account.gpus_mean,
        "mean_at": account.mean_at,
    }
    tx.execute(update(Tenant).where(Tenant.id == tenant).values(values))


def give_back(tx: Session, tenant: str, cpus: int, gpus: int) -> None:
    if cpus or gpus:
        hold(tx, tenant, locked(tx, tenant), -cpus, -gpus)


def settle(tx: Session) -> None:
    """Count anew what tenants hold: claims of an older release did not note it.

    Every claim and every end goes through its tenant's row: while these are held, what is under way has not been noted.
    """
    tx.execute(select(Tenant.id).order_by(Tenant.id).with_for_update(key_share=True)).all()
    both = and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt)

    def held(each: Any) -> Any:
        total = select(func.coalesce(func.sum(each * Attempt.workers), 0)).select_from(Job).join(Attempt, both)
        return total.where(Job.tenant_id == Tenant.id, Job.status.in_(ACTIVE)).correlate(Tenant).scalar_subquery()

    cpus, gpus = held(Job.cpus), held(Job.gpus)
    wrong = or_(Tenant.cpus_taken != cpus, Tenant.gpus_taken != gpus)
    tx.execute(update(Tenant).where(wrong).values(cpus_taken=cpus, gpus_taken=gpus))


def waiting_limit(tx: Session, tenant: str) -> int | None:
    """The tenant's `max_queued`, if more jobs wait than that, those that this transaction has made among them.

    Only a tenant with a limit is counted, and its submits wait for each other here: the limit is exact.
    """
    query = select(Tenant.max_queued).where(Tenant.id == tenant, Tenant.max_queued.is_not(None))
    most = tx.scalar(query.with_for_update(key_share=True))
    return most if most is not None and _count_waiting(tx, tenant, most + 1) > most else None


def classes_of(tx: Session, tenant: str) -> list[str] | None:
    """The classes that a tenant's jobs may have besides the usual one; None: all."""
    return tx.scalar(select(Tenant.classes).where(Tenant.id == tenant))


def may_use(class_: str, allowed: Collection[str] | None) -> bool:
    """Whether a tenant's jobs may be of a class. allowed: `Tenant.classes`."""
    return allowed is None or class_ == DEFAULT_CLASS or class_ in allowed


def usage(tx: Session, tenant: str) -> Usage:
    """What a tenant may have and has."""
    row = tx.get_one(Tenant, tenant)
    account = read(tx, [tenant])[tenant]
    ledger = tx.scalars(select(Ledger)).one_or_none()
    room = Room(ledger.cpus, ledger.gpus) if ledger is not None else Room(0, 0)
    share = account.share(room, tx.scalars(select(db_now())).one())
    return Usage(row, share, _count_waiting(tx, tenant, MOST_COUNTED))


def _count_waiting(tx: Session, tenant: str, most: int) -> int:
    waits = [status for status in Status if phase_of(status) is Phase.PENDING]
    first, last = lanes.of_tenant(tenant)
    mine = (Job.status.in_(waits), Job.kind == "train", Job.lane >= first, Job.lane < last)
    counted = select(literal(1)).select_from(Job).where(*mine).limit(most).subquery()
    return tx.scalar(select(func.count()).select_from(counted)) or 0


def _account(row: Any) -> Account:
    return Account(*row[1:])
