"""The page of a sweep in a real Chromium: it moves by itself while trials come in."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from orchestrator.ids import new_id
from orchestrator.store import groups
from tests.browser.site import Site

RATES = [0.1, 0.01, 0.001]


def test_a_sweep_fills_in_by_itself_and_draws_its_trials(site: Site, tmp_path: Path):
    sweep_id = new_id("sweep")
    spec = {
        "strategy": "random", "metric": "style_loss", "mode": "min", "rungs": [], "reduction": 0,
        "space": {"lr": {"low": 1e-3, "high": 1e-1, "log": True}}, "trials": [{"lr": lr} for lr in RATES],
    }  # fmt: skip
    with site.db.write() as tx:
        groups.create(tx, sweep_id, site.tenant, kind="sweep", name="rates", spec=spec)
    for n in range(1, 4):
        site.submit(f"rates-{n}", group_id=sweep_id, trial=n)
    page = site.goto("/sweeps")
    page.get_by_role("link", name="rates").click()
    expect(page.locator("#trials tbody tr")).to_have_count(3)
    expect(page.locator("svg circle")).to_have_count(0)
    for n in range(1, 4):
        ticket = site.begin()
        site.record(ticket, 1, 100)
        site.publish(ticket, f"rates-{n}")
    expect(page.locator("svg circle")).to_have_count(3)
    expect(page.locator("svg .best")).to_have_count(1)
    expect(page.get_by_role("link", name="rates-3@1")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    picture = page.screenshot(path=tmp_path / "sweep.png")
    assert picture.startswith(b"\x89PNG")
