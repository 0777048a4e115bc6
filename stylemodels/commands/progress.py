"""One line on stderr that says how far a verb is."""

from __future__ import annotations

import sys

BAR_CHARACTERS = 24


def show(text: str) -> None:
    """In place of what was shown last."""
    print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """A line that stays, above the next one shown."""
    print(f"\r{text}\033[K", file=sys.stderr, flush=True)


def end() -> None:
    """Leave the line."""
    print(file=sys.stderr, flush=True)


def bar(share: float) -> str:
    """share: 0 to 1."""
    filled = round(BAR_CHARACTERS * min(share, 1.0))
    return f"[{'#' * filled}{'.' * (BAR_CHARACTERS - filled)}]"
