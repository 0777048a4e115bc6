"""Ray's token: whoever reaches Ray's ports without one may run anything, so a dispatcher does not start without it.

Ray reads these variables itself; the token is best a file, which no list of processes shows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MISSING = (
    "no token for Ray: whoever reaches the ports of a Ray without token authentication runs what they like on it. Set "
    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) for Ray's nodes and for dispatchers, or "
    "STYLEFOUNDRY_RAY_WITHOUT_TOKEN=true where nobody else can reach them"
)


def is_given(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> bool:
    """True when Ray in this process will show a token: from a variable, a named file, or the one at home."""
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return False
    if environment.get("RAY_AUTH_TOKEN"):
        return True
    path = environment.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path) if path else (home or Path.home()) / ".ray" / "auth_token"
    return file.is_file() and bool(file.read_text().strip())
