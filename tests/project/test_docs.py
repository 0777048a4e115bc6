"""Documents that say what the code says."""

from __future__ import annotations

from pathlib import Path

from orchestrator.states import diagram

ROOT = Path(__file__).parents[2]


def test_the_state_diagram_in_the_docs_is_the_one_of_the_code():
    assert diagram() in (ROOT / "docs/architecture.md").read_text()
