"""What a key may do. Every route names the one scope that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    READ = "read"  # look at the tenant's jobs, models, datasets, usage
    SUBMIT = "submit"  # make jobs and steer them
    WRITE = "write"  # upload pictures, name models, delete
    STYLIZE = "stylize"  # draw with models
    MANAGE = "manage"  # the tenant's own keys, its audit log, the secret of its webhooks
    ADMIN = "admin"  # everything, the keys and quotas of all tenants too


EVERY = frozenset(Scope)
USUAL = (Scope.READ, Scope.SUBMIT, Scope.WRITE, Scope.STYLIZE)  # of a key of which nothing else is said


def text_of(scopes: Iterable[Scope]) -> str:
    """As a column holds them: in the order above, with spaces between."""
    wanted = set(scopes)
    return " ".join(scope for scope in Scope if scope in wanted)


def scopes_of(text: str, *, admin: bool) -> frozenset[Scope]:
    """What a row means; scopes of a later release are left out."""
    return EVERY if admin else frozenset(scope for scope in Scope if scope in text.split())
