"""The pages of sweeps: what the database says, as HTML and a drawing."""

from __future__ import annotations

import re
from typing import Any

from orchestrator.sessions import COOKIE
from orchestrator.web.sweep_chart import HEIGHT, WIDTH, chart
from tests.orchestrator.conftest import Api
from tests.orchestrator.test_dependencies_api import draw
from tests.orchestrator.test_sweeps_api import sweep, work

LOG = {"low": 1e-4, "high": 1.0, "log": True}


def page(api: Api, path: str, status: int = 200) -> str:
    answer = api.client.get(path, headers={"Cookie": f"{COOKIE}={api.key}"})
    assert answer.status_code == status, answer.text
    return answer.text


def test_a_sweeps_page_has_its_trials_the_furthest_and_best_first(api: Api, stranger: Api):
    assert "No sweep yet" in page(api, "/sweeps")
    made = sweep(api, name="tuning")
    assert "<svg" not in page(api, f"/sweeps/{made['id']}"), "nothing is known yet"
    for _ in range(5):
        work(api, {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 3.0})
    draw(api.db)
    work(api, {2: 1.0, 4: 2.0})
    html = page(api, f"/sweeps/{made['id']}")
    rows = re.findall(r'<tr><td><a href="/jobs/job_\w+">(\d)</a>', html)
    assert rows == ["2", "4", "5", "3", "1"]
    assert "place 5 of 5 by loss at step 10" in html
    assert len(re.findall("<polyline", html)) == 5
    assert html.count('class="best"') == 1
    assert "tuning" in page(api, "/sweeps")
    page(stranger, f"/sweeps/{made['id']}", status=404)
    assert made["id"] not in page(stranger, "/sweeps")


def test_a_drawing_keeps_to_its_frame_and_its_order():
    trials: list[dict[str, Any]] = [
        {"number": n, "params": {"lr": 10.0**-n}, "values": [], "value": float(n)} for n in (1, 2, 3)
    ]
    drawn = chart({"rungs": [], "space": {"lr": LOG}}, trials, best=1)
    assert drawn is not None
    places = [line.points[0] for line in drawn.lines]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert places[0][0] - places[1][0] == places[1][0] - places[2][0], "powers stand at equal distances"
    assert places[0][1] > places[1][1] > places[2][1], "what is more is higher"
    assert [line.best for line in drawn.lines] == [True, False, False]
    assert chart({"rungs": [], "space": {"lr": LOG}}, [trials[0] | {"value": None}], best=None) is None
