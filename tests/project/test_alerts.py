"""Alert rules and the dashboard: real PromQL, over figures that there are, with a word on what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy/chart/files"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Title and expression of every line in the dashboard."""
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_promql_with_a_summary_and_a_severity(rule: dict[str, Any]):
    promql_parser.parse(rule["expr"])
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


@pytest.mark.parametrize(("title", "expr"), list(panels()))
def test_a_panel_is_promql(title: str, expr: str):
    promql_parser.parse(expr)


def test_the_parser_refuses_what_is_no_promql():
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum by (x) rate(y[5m]")


def test_the_operators_page_says_what_to_do_about_every_alert():
    page = (ROOT / "docs/operating.md").read_text()
    described = set(re.findall(r"^\| `(Stylefoundry\w+)` \|", page, re.MULTILINE))
    assert described == {rule["alert"] for rule in rules()}


def test_no_two_panels_lie_over_each_other():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
