"""Names for the models of a fan-out: a prefix, and what the style's path says."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 63  # characters of a name


def model_names(prefix: str, paths: Sequence[str]) -> list[str]:
    """A name for each path, all different: `meta` and `monet/water lilies.jpg` give `meta-monet-water-lilies`.

    Two paths that would get one name are told apart by a number; a name that is too long loses its end.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        wanted, number = _joined(prefix, _words(path)), 1
        name = wanted
        while name in taken:
            number += 1
            name = _joined(wanted, str(number))
        taken.add(name)
        names.append(name)
    return names


def _words(path: str) -> str:
    """The path without its ending, as letters, digits, dots and dashes."""
    without = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", path)
    return re.sub(r"[^A-Za-z0-9.]+", "-", without).strip("-.") or "style"


def _joined(start: str, end: str) -> str:
    """At most as long as a name may be; the end counts, but half of the room is the start's."""
    end = end[: LONGEST // 2] if len(end) > LONGEST // 2 and len(start) + len(end) + 1 > LONGEST else end
    return f"{start[: LONGEST - len(end) - 1]}-{end}"
