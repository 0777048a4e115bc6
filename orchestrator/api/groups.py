"""What fan-outs and sweeps share: found, listed, counted, cancelled."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from sqlalchemy.orm import Session

from orchestrator.api.schemas import Instant, View
from orchestrator.api.services import Services
from orchestrator.problems import NotFound
from orchestrator.states import Phase, Status, phase_of
from orchestrator.store import groups
from orchestrator.store.tables import Group


class GroupView(View):
    """Jobs that one request made. A job that was done again counts once, as its newest retry."""

    id: str
    name: str
    phase: Phase = Field(description="pending: none has begun; active; terminal: all have ended")
    counts: dict[str, int] = Field(description="status -> jobs")
    jobs: int
    created_at: Instant
    cancelled_at: Instant | None


def find(tx: Session, tenant: str, kind: str, group_id: str) -> Group:
    """Raises NotFound, also for another tenant's."""
    group = groups.find(tx, tenant, kind, group_id)
    if group is None:
        raise NotFound(f"there is no {kind} {group_id!r}")
    return group


def views(tx: Session, found: Sequence[Group]) -> list[GroupView]:
    counts = groups.counts(tx, [group.id for group in found]) if found else {}
    return [view(group, counts[group.id]) for group in found]


def view(group: Group, counts: dict[str, int]) -> GroupView:
    return GroupView(
        id=group.id,
        name=group.name,
        phase=phase(counts),
        counts=counts,
        jobs=sum(counts.values()),
        created_at=group.created_at,
        cancelled_at=group.cancelled_at,
    )


def phase(counts: dict[str, int]) -> Phase:
    """Of all jobs together: as long as one waits while another has ended, there is something going on."""
    phases = {phase_of(Status(status)) for status in counts}
    if phases == {Phase.TERMINAL}:
        return Phase.TERMINAL
    return Phase.PENDING if phases <= {Phase.PENDING} else Phase.ACTIVE


def cancel(services: Services, tenant: str, kind: str, group_id: str) -> None:
    """Cancel everything that goes on in a group, a slice of jobs at a time. Raises NotFound."""
    with services.db.write() as tx:
        groups.mark_cancelled(tx, find(tx, tenant, kind, group_id).id)
    while True:
        with services.db.write() as tx:
            moved = groups.cancel_some(tx, group_id)
        for job in moved:
            services.bus.tell(job.job_id)
        if not moved:
            break
    services.bus.wake()
