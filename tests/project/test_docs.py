"""Documents that say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.states import diagram
from stylemodels.methods import all_methods

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"`([^`]+)`")


def test_the_state_diagram_in_the_docs_is_the_one_of_the_code():
    assert diagram() in (ROOT / "docs/architecture.md").read_text()


def test_the_readme_has_a_row_for_every_method_with_the_tasks_that_can_be_trained():
    section = (ROOT / "README.md").read_text().partition("\n## Methods\n")[2].partition("\n## ")[0]
    _, _, *rows = re.findall(r"^\|.*\|$", section, re.MULTILINE)
    told: dict[str, set[str]] = {}
    for row in rows:
        slugs, _, tasks = row.strip("|").split("|")
        told |= {slug: set(CODE.findall(tasks)) for slug in CODE.findall(slugs)}
    methods = all_methods().items()
    assert told == {slug: {name for name, task in method.tasks.items() if task.trains} for slug, method in methods}
