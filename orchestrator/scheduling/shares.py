"""Who has had how much of the cluster lately.

A tenant's use is the exponentially weighted mean of what it holds, cores and GPUs apart, with a half-life of
`HALF_LIFE_S`. Its dominant share is the larger of the two as parts of the cluster (Ghodsi et al. 2011, dominant
resource fairness). The tenant with the smallest share, over its weight, is next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

HALF_LIFE_S = 6 * 3600.0


class Room(NamedTuple):
    """Cores and GPUs."""

    cpus: int
    gpus: int

    def fits(self, cpus: int, gpus: int) -> bool:
        return cpus <= self.cpus and gpus <= self.gpus


@dataclass(slots=True)
class Tenant:
    """What a tenant may have, has, and has had."""

    weight: float = 1.0
    max_cpus: int | None = None  # at a time; None: what there is
    max_gpus: int | None = None
    cpus: int = 0  # held now
    gpus: int = 0
    cpus_mean: float = 0.0  # held lately, as of `mean_at`
    gpus_mean: float = 0.0
    mean_at: float = 0.0  # seconds since 1970

    def hold(self, cpus: int, gpus: int, now: float) -> None:
        """Take (or, negative, give back) room at `now`; until then it held what it held."""
        self.cpus_mean, self.gpus_mean = self.means(now)
        self.mean_at = max(now, self.mean_at)
        self.cpus += cpus
        self.gpus += gpus

    def means(self, now: float) -> tuple[float, float]:
        """Cores and GPUs held lately, as of `now`."""
        kept = 0.5 ** (max(0.0, now - self.mean_at) / HALF_LIFE_S)
        return self.cpus + (self.cpus_mean - self.cpus) * kept, self.gpus + (self.gpus_mean - self.gpus) * kept

    def share(self, total: Room, now: float) -> float:
        """Dominant share, of what it held lately plus of what it holds now, over its weight."""
        cpus, gpus = self.means(now)
        lately = max(cpus / total.cpus if total.cpus else 0.0, gpus / total.gpus if total.gpus else 0.0)
        present = max(self.cpus / total.cpus if total.cpus else 0.0, self.gpus / total.gpus if total.gpus else 0.0)
        return (lately + present) / self.weight

    def may_hold(self, cpus: int, gpus: int) -> bool:
        """Whether its quota allows so much more."""
        return (self.max_cpus is None or cpus == 0 or self.cpus + cpus <= self.max_cpus) and (
            self.max_gpus is None or gpus == 0 or self.gpus + gpus <= self.max_gpus
        )

    def left(self, room: Room) -> Room:
        """As much of `room` as its quota allows it to take."""
        cpus = room.cpus if self.max_cpus is None else min(room.cpus, max(0, self.max_cpus - self.cpus))
        gpus = room.gpus if self.max_gpus is None else min(room.gpus, max(0, self.max_gpus - self.gpus))
        return Room(cpus, gpus)
