"""The page of a comparison in a real Chromium: pictures and figures come in by themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from orchestrator.ids import new_id
from orchestrator.objects import blob_key, sample_key
from orchestrator.store import comparisons, jobs, queue
from orchestrator.store.queue import Batch
from tests.browser.site import Site
from tests.images import jpeg

FIGURES = {"content_loss": 0.5, "style_loss": 0.25, "seconds": 1.5, "mpx_per_s": 0.1, "parameters": 7.0}


def entry(name: str) -> dict[str, Any]:
    return {
        "name": name, "model": f"{name}@1", "method": "adain/train", "note": f"{name} note", "controls": {},
        "prefix": "x", "files": [],
    }  # fmt: skip


def test_a_comparison_fills_in_by_itself(site: Site, tmp_path: Path):
    pictures = {
        "content": [{"path": "cat.jpg", "sha256": 64 * "a"}],
        "style": [{"path": "wave.jpg", "sha256": 64 * "b"}],
    }
    for n, (entry_of,) in enumerate(pictures.values()):
        site.objects.put(blob_key(site.tenant, entry_of["sha256"]), jpeg(64, 48, seed=n))
    config = {"models": [entry("first"), entry("second")], **pictures, "size": 256, "encoder": "small"}
    made = jobs.NewJob(
        new_id(comparisons.PREFIX), site.tenant, method=comparisons.PREFIX, task=comparisons.TASK, name="both",
        config=config, cpus=1, gpus=0, max_retries=0, total_steps=2,
    )  # fmt: skip
    with site.db.write() as tx:
        comparison = jobs.submit(tx, made)
    page = site.goto("/comparisons")
    page.get_by_role("link", name="both").click()
    expect(page.get_by_text("not drawn yet")).to_have_count(2)
    expect(page.locator("figure")).to_have_count(2)

    ticket = site.begin()
    key = sample_key(site.tenant, comparison.id, 1, 1, 0)
    site.objects.put(key, jpeg(64, 48, seed=9))
    sample = {"step": 1, "name": "1-1", "width": 64, "height": 48, "key": key}
    with site.db.write() as tx:
        points = {name: [(1, value)] for name, value in FIGURES.items()}
        queue.record(tx, ticket, Batch(step=1, points=points, samples=[sample]), lease_s=60)

    expect(page.locator("figure")).to_have_count(3)
    expect(page.get_by_text("not drawn yet")).to_have_count(1)
    expect(page.locator("#figures tbody tr").first).to_contain_text("0.250")
    expect(page.get_by_alt_text("first")).to_have_js_property("naturalWidth", 64)
    page.screenshot(path=tmp_path / "comparison.png")


def test_a_comparison_is_begun_on_the_page(site: Site):
    for name, path in (("photos", "cat.jpg"), ("paintings", "wave.jpg")):
        site.add_dataset(name, paths={path: 64 * "a"})
    page = site.goto("/comparisons")
    state = page.locator("#new [role=status]")
    page.get_by_label("models").select_option(["gatys", "wct-small"])
    page.get_by_label("contents").fill("photos:cat.jpg\nphotos:dog.jpg\n")
    page.get_by_label("styles").fill("wave.jpg")
    page.get_by_role("button", name="Compare").click()
    expect(state).to_have_text("style: write DATASET:PATH, all of one dataset")
    page.get_by_label("styles").fill("paintings:wave.jpg")
    page.get_by_role("button", name="Compare").click()
    expect(state).to_contain_text("photos@1 has no usable picture dog.jpg")
    page.get_by_label("contents").fill("photos:cat.jpg")
    page.get_by_role("button", name="Compare").click()
    expect(page).to_have_url(re.compile("/comparisons/comparison_"))
    expect(page.get_by_text("not drawn yet")).to_have_count(2)
