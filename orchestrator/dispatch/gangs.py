"""Gangs: attempts of several actors, found by their names alone.

Rank 0 of attempt 2 of job_x is the actor `run-job_x-2`, as a single worker would be; the others are `run-job_x-2-1`,
`run-job_x-2-2`, … All are placed together, in a placement group of rank 0's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from orchestrator.dispatch.cluster import HARDLY_A_CORE, Cluster
from orchestrator.store.queue import Ticket


def leader_name(ticket: Ticket) -> str:
    """Of the fresh actor that has rank 0, or does the attempt alone."""
    return f"run-{ticket.job_id}-{ticket.attempt}"


def member_names(leader: str, workers: int) -> list[str]:
    """By rank."""
    return [leader, *(f"{leader}-{rank}" for rank in range(1, workers))]


def leader_of(name: str) -> str:
    """The name of rank 0 in the gang of an actor; a warm worker leads itself."""
    if not name.startswith("run-"):
        return name
    return "-".join(name.split("-")[:3])  # a job's id has no dash


def start(cluster: Cluster, leader: str, *, workers: int, threads: int, gpus: int, nodes: Sequence[str]) -> list[Any]:
    """Handles of new actors by rank. They begin when there is room for all of them. Raises RayAway.

    nodes: of each, by rank. Where the claim named none, GPUs lie on as few nodes as possible, and gangs without GPUs
    are spread over the nodes, because Ray does not count their cores.
    """
    bundle = {"CPU": HARDLY_A_CORE} | ({"GPU": float(gpus)} if gpus else {})
    group = cluster.place(leader, [bundle] * workers, "PACK" if gpus else "SPREAD", nodes)
    return [
        cluster.start(name, warm=False, threads=threads, gpus=gpus, place=(group, rank))
        for rank, name in enumerate(member_names(leader, workers))
    ]


def find(cluster: Cluster, leader: str, workers: int) -> list[Any] | None:
    """Handles of living actors by rank; None when one is gone. Raises RayAway."""
    handles = [cluster.find(name) for name in member_names(leader, workers)]
    return None if None in handles else handles


def end(cluster: Cluster, leader: str, workers: int) -> None:
    """End every process of a gang and give its place back; what is gone already is no error. Raises RayAway."""
    for name in member_names(leader, workers):
        cluster.kill(name)
    if workers > 1:
        cluster.unplace(leader)


def orphans(names: Iterable[str], leaders: Collection[str]) -> list[str]:
    """Those among the names of actors or places whose attempts' rank 0 is not among `leaders`."""
    return [name for name in names if name.startswith("run-") and leader_of(name) not in leaders]
