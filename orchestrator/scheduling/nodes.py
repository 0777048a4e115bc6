"""Room node by node: a worker needs its cores and its GPUs on one node.

A cluster of which only the sums are known is one node, `POOL`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from orchestrator.scheduling.shares import Room

POOL = ""
MANY = 1_000_000  # workers that need nothing

Places = Mapping[str, int]  # node -> workers of a job there
Held = Mapping[str, Room]  # node -> what a job holds there


class Nodes:
    """Room by node. How many workers of a shape fit is counted once, and kept up with every change."""

    __slots__ = ("_fits", "rooms", "sum")

    def __init__(self, rooms: Mapping[str, Room]) -> None:
        self.rooms = dict(rooms)
        self.sum = Room(sum(room.cpus for room in rooms.values()), sum(room.gpus for room in rooms.values()))
        self._fits: dict[tuple[int, int], int] = {}

    def copy(self) -> Self:
        made = type(self)({})
        made.rooms, made.sum, made._fits = self.rooms.copy(), self.sum, self._fits.copy()
        return made

    def holds(self, cpus: int, gpus: int) -> int:
        """How many workers of so many cores and GPUs each."""
        found = self._fits.get((cpus, gpus))
        if found is None:
            found = self._fits[cpus, gpus] = sum(_holds(room, cpus, gpus) for room in self.rooms.values())
        return found

    def take(self, held: Held) -> None:
        """What lies on a node that is not among these changes nothing, here and in `give`."""
        for node, room in held.items():
            if (free := self.rooms.get(node)) is not None:
                self.put(node, Room(free.cpus - room.cpus, free.gpus - room.gpus))

    def give(self, held: Held) -> None:
        for node, room in held.items():
            if (free := self.rooms.get(node)) is not None:
                self.put(node, Room(free.cpus + room.cpus, free.gpus + room.gpus))

    def put(self, node: str, room: Room) -> None:
        """Let a node have just this."""
        before = self.rooms[node]
        self.rooms[node] = room
        self.sum = Room(self.sum.cpus + room.cpus - before.cpus, self.sum.gpus + room.gpus - before.gpus)
        for cpus, gpus in self._fits:
            self._fits[cpus, gpus] += _holds(room, cpus, gpus) - _holds(before, cpus, gpus)

    def best_fit(self, cpus: int, gpus: int, workers: int) -> Places:
        """Where to put so many workers: on as few nodes as can be, and on those that are left least."""
        places: dict[str, int] = {}
        while workers:
            all_cpus, all_gpus = cpus * workers, gpus * workers
            able = [
                (room.gpus, room.cpus, node)
                for node, room in self.rooms.items()
                if room.cpus >= all_cpus and room.gpus >= all_gpus and node not in places
            ]
            if able:
                return places | {min(able)[2]: workers}
            most, node = max(
                (_holds(room, cpus, gpus), node) for node, room in self.rooms.items() if node not in places
            )
            places[node] = most
            workers -= most
        return places

    def nearest(self, whole: Nodes, cpus: int, gpus: int, workers: int) -> Places:
        """Where least is missing for so many workers, on nodes that could hold them when `whole`."""
        places: dict[str, int] = {}
        while workers:
            able = []
            for node, room in whole.rooms.items():
                there = min(workers, _holds(room, cpus, gpus))
                if there and node not in places:
                    free = self.rooms[node]
                    missing = (max(0, gpus * there - free.gpus), max(0, cpus * there - free.cpus))
                    able.append((-there, *missing, node))
            if not able:
                break
            fewer, *_, place = min(able)
            places[str(place)] = -fewer
            workers += fewer
        return places


class Later:
    """Some nodes once jobs have ended, and how many workers of one shape fit then. Only what changes is kept."""

    __slots__ = ("_cpus", "_gpus", "_now", "changed", "fits")

    def __init__(self, nodes: Nodes, cpus: int, gpus: int) -> None:
        self._now, self._cpus, self._gpus = nodes.rooms, cpus, gpus
        self.changed: dict[str, Room] = {}
        self.fits = nodes.holds(cpus, gpus)

    def end(self, jobs: Iterable[Held]) -> int:
        """Returns how many workers fit then."""
        before: dict[str, Room] = {}
        for job in jobs:
            for node, room in job.items():
                free = self.changed.get(node) or self._now.get(node)
                if free is not None:
                    before.setdefault(node, free)
                    self.changed[node] = Room(free.cpus + room.cpus, free.gpus + room.gpus)
        for node, free in before.items():
            self.fits += _holds(self.changed[node], self._cpus, self._gpus) - _holds(free, self._cpus, self._gpus)
        return self.fits

    def nodes(self) -> Nodes:
        return Nodes({**self._now, **self.changed})


def held(places: Places, cpus: int, gpus: int) -> Held:
    """What workers of so many cores and GPUs each hold."""
    return {node: Room(cpus * workers, gpus * workers) for node, workers in places.items()}


def _holds(room: Room, cpus: int, gpus: int) -> int:
    most = room.cpus // cpus if cpus else MANY
    if gpus:
        most = min(most, room.gpus // gpus)
    return max(0, most)
