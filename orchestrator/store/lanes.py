"""Lanes of the queue: jobs alike in all that decides about room have one key, and the queue's index begins with it."""

from __future__ import annotations


def key_of(
    tenant: str, class_: str, priority: int, shape: tuple[int, int, int, int], *, short: bool, has_deadline: bool
) -> str:
    """The lane of a job. shape: cpus and gpus of each worker, workers, min_workers."""
    kind = ("s" if short else "") + ("d" if has_deadline else "")
    return f"{tenant}|{class_}|{priority}|{'x'.join(map(str, shape))}|{kind}"


def of_tenant(tenant: str) -> tuple[str, str]:
    """The keys of a tenant's lanes lie between these two."""
    return f"{tenant}|", f"{tenant}|~"


def is_short(kind: str, task: str, gpus: int, workers: int) -> bool:
    """Ingests and adaptations may go to warm workers; what needs a GPU, or several workers, may not."""
    return gpus == 0 and workers == 1 and (kind == "ingest" or task == "adapt")
