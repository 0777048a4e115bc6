"""The web page in a real Chromium, on a real API server: what people see, and that it moves by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Request, expect

from orchestrator.catalogue import read_catalogue
from orchestrator.ids import new_id
from orchestrator.settings import Settings
from orchestrator.states import ErrorType
from orchestrator.store import claims, jobs, queue
from orchestrator.store.tables import DatasetVersion
from stylemodels.builtin import builtin_models
from tests.browser.site import Site
from tests.browser.trained import trained_model
from tests.images import jpeg
from tests.serving import ADMIN_KEY, working
from tests.waiting import wait_until

# --- coming in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/models", "/datasets", "/methods", "/jobs/job_01JD0000000000000000000000"])
def test_every_page_asks_for_the_key_first(visit: Site, path: str):
    visit.goto(path)
    expect(visit.page.get_by_label("API key")).to_be_visible()


def test_after_the_login_one_is_where_one_wanted_to_be(visit: Site):
    visit.goto("/methods")
    visit.page.get_by_label("API key").fill(ADMIN_KEY)
    visit.page.get_by_role("button", name="Log in").click()
    expect(visit.page).to_have_url(f"{visit.url}/methods")


def test_a_wrong_key_stays_outside_and_is_told(browser: Browser, service: str):
    page = browser.new_page()
    page.goto(f"{service}/login")
    page.get_by_label("API key").fill("sf_wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown, was revoked or has expired")
    assert page.context.cookies() == []
    page.context.close()


def test_logging_out_takes_the_cookie_away(site: Site):
    site.page.get_by_role("button", name="Log out").click()
    expect(site.page.get_by_label("API key")).to_be_visible()
    site.goto("/")
    expect(site.page.get_by_label("API key")).to_be_visible()


def test_scripts_cannot_read_the_key(site: Site):
    assert site.page.evaluate("document.cookie") == ""


def test_the_login_leads_to_no_foreign_page(visit: Site):
    visit.goto("/login?next=//elsewhere.example/")
    visit.page.get_by_label("API key").fill(ADMIN_KEY)
    visit.page.get_by_role("button", name="Log in").click()
    expect(visit.page).to_have_url(f"{visit.url}/")


# --- an empty service -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/", "stylefoundry jobs submit"),
        ("/models", "stylefoundry models fetch"),
        ("/datasets", "stylefoundry datasets push"),
    ],
)
def test_an_empty_page_says_which_commands_fill_it(site: Site, path: str, command: str):
    site.goto(path)
    expect(site.page.locator("main")).to_contain_text(command)


@pytest.mark.parametrize("path", ["/", "/models"])
def test_on_the_first_visit_there_are_models_to_try(site: Site, path: str):
    page = site.goto(path)
    cards = page.locator("#builtin .card.model")
    expect(cards).to_have_count(len(builtin_models()))
    cards.filter(has_text="gatys").click()
    expect(page).to_have_url(f"{site.url}/models/gatys")
    expect(page.locator("main")).to_contain_text("comes with stylefoundry")
    expect(page.get_by_role("button", name="Stylise")).to_be_visible()


def test_the_methods_page_has_every_setting_of_every_task(site: Site, service_settings: Settings):
    site.goto("/methods")
    text = site.page.locator("main").text_content() or ""
    for method in read_catalogue(service_settings.cache_dir).methods.values():
        for name, task in method["tasks"].items():
            assert f"{method['method']} {name}" in text
            for setting, schema in task["config"]["properties"].items():
                assert setting in text
                assert schema["description"] in text


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_the_list_shows_where_each_job_stands_and_follows_it(site: Site):
    site.submit("first")
    site.submit("second")
    ticket = site.begin()
    site.record(ticket, 1, 40)
    site.goto("/")
    first = site.page.locator(".row", has_text="first")
    expect(first).to_contain_text("running")
    expect(first).to_contain_text("40 of 100")
    expect(first).to_contain_text("12.5 images/s")
    expect(site.page.locator(".row", has_text="second")).to_contain_text("position 1 in the queue")
    site.record(ticket, 41, 60)
    expect(first).to_contain_text("60 of 100")


def test_the_list_can_be_narrowed_by_name_and_status(site: Site):
    site.submit("meta")
    site.submit("starry")
    site.goto("/")
    site.page.get_by_label("name").fill("star")
    expect(site.page.locator(".row")).to_have_count(1)
    expect(site.page.locator(".row")).to_contain_text("starry")
    site.page.get_by_label("name").fill("")
    site.page.get_by_label("status").select_option("running")
    expect(site.page.locator("#jobs")).to_contain_text("No job fits")
    site.page.reload()
    expect(site.page.locator("#jobs")).to_contain_text("No job fits")


def test_going_back_from_a_narrowed_list_gives_the_whole_page(site: Site):
    site.submit("meta")
    site.submit("starry")
    page = site.goto("/")
    page.get_by_label("name").fill("star")
    expect(page).to_have_url(re.compile("q=star"))
    page.go_back()
    expect(page.locator(".row")).to_have_count(2)
    expect(page.get_by_role("link", name="Models")).to_be_visible()


def test_a_running_job_moves_while_one_looks_at_it(site: Site):
    job_id = site.submit("meta")
    ticket = site.begin()
    site.record(ticket, 1, 20, pictures=True)
    page = site.goto(f"/jobs/{job_id}")
    curve = page.locator(".curve", has_text="style_loss")
    expect(curve).to_have_attribute("data-points", "20")
    expect(page.locator(".curve")).to_have_count(2)
    expect(page.locator("#gallery tbody tr")).to_have_count(1)
    site.record(ticket, 21, 60, pictures=True)
    expect(curve).to_have_attribute("data-points", "60")
    expect(curve.locator("output")).to_have_text(str(round(50 / 60, 4)))
    expect(page.locator("#gallery tbody tr")).to_have_count(2)
    expect(page.locator("#step")).to_have_text("60")
    expect(page.locator("#log")).to_contain_text("steps 21 to 60 <b>done</b>")
    broken = page.evaluate(
        "[...document.querySelectorAll('#gallery img')].filter((i) => i.complete && !i.naturalWidth).length"
    )
    assert broken == 0
    site.publish(ticket, "meta")
    expect(page.locator("#overview")).to_have_attribute("data-status", "succeeded")
    expect(page.get_by_role("link", name="Model meta@1")).to_be_visible()


def test_curves_drop_what_a_new_attempt_computes_again(site: Site):
    job_id = site.submit("meta")
    ticket = site.begin()
    site.record(ticket, 1, 20, pictures=True)
    site.record(ticket, 21, 30)
    page = site.goto(f"/jobs/{job_id}")
    curve = page.locator(".curve", has_text="style_loss")
    expect(curve).to_have_attribute("data-points", "30")
    with site.db.write() as tx:
        assert queue.lost(tx, ticket, "its process is gone") is not None
    with site.db.write() as tx:
        claimed = claims.claim_next(tx, owner="test", lease_s=60)
        assert claimed is not None
    with site.db.write() as tx:
        queue.begin(tx, claimed.ticket, actor="b", node="n", pid=2, resumed_from=20, total_steps=100, lease_s=60)
    site.bus.tell(job_id)
    expect(curve).to_have_attribute("data-points", "20")
    expect(page.locator("#overview")).to_contain_text("its process is gone")
    site.record(claimed.ticket, 21, 25)
    expect(curve).to_have_attribute("data-points", "25")


def test_log_scale_and_smoothing_draw_the_same_points(site: Site):
    job_id = site.submit("meta")
    site.record(site.begin(), 1, 50)
    page = site.goto(f"/jobs/{job_id}")
    page.get_by_label("log y").check()
    page.get_by_label("smooth").check()
    expect(page.locator(".curve canvas")).to_have_count(2)
    expect(page.locator(".curve", has_text="style_loss")).to_have_attribute("data-points", "50")


def test_the_cancel_button_cancels(site: Site):
    job_id = site.submit("meta")
    page = site.goto(f"/jobs/{job_id}")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#overview")).to_have_attribute("data-status", "cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert site.job(job_id).status == "cancelled"


def test_pause_and_resume_change_places(site: Site):
    job_id = site.submit("meta")
    page = site.goto(f"/jobs/{job_id}")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert site.job(job_id).status == "queued"


def test_a_failed_job_says_why_and_retry_leads_to_the_new_one(site: Site):
    config = {"steps": 100, "encoder": "random"}
    job_id = site.submit("meta", config=config, datasets={})
    ticket = site.begin()
    with site.db.write() as tx:
        queue.fail(tx, ticket, ErrorType.DIVERGED, "style_loss was not finite at step 3")
    page = site.goto(f"/jobs/{job_id}")
    expect(page.locator("#overview")).to_contain_text("style_loss was not finite at step 3")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("retry of")).to_be_visible()
    with site.db.read() as tx:
        assert [job.parent for job in jobs.page(tx, site.tenant, jobs.Filter(), before=None, limit=9)] == [job_id, None]


def test_a_click_shows_a_picture_large_and_arrow_keys_go_on(site: Site):
    job_id = site.submit("meta")
    ticket = site.begin()
    site.record(ticket, 1, 10, pictures=True)
    site.record(ticket, 11, 20, pictures=True)
    page = site.goto(f"/jobs/{job_id}")
    page.locator(".picture").first.click()
    viewer = page.locator("#viewer")
    expect(viewer).to_contain_text("result-1-1 at step 20")
    page.keyboard.press("ArrowDown")
    expect(viewer).to_contain_text("result-1-1 at step 10")
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()


def test_a_job_that_is_not_there_is_a_page_that_says_so(site: Site):
    response = site.page.request.get(f"{site.url}/jobs/{new_id('job')}")
    assert response.status == 404
    assert "there is no job" in response.text()


def test_text_of_users_is_never_markup(site: Site):
    job_id = site.submit("<img src=x onerror=alert(1)>", tags={"<b>": "<i>bold</i>"})
    page = site.goto(f"/jobs/{job_id}")
    expect(page.locator("h1")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("dl.facts i").count() == 0


# --- models and datasets ----------------------------------------------------------------------------------------------


def test_a_model_shows_its_picture_its_files_and_where_it_comes_from(site: Site):
    site.submit("meta")
    ticket = site.begin()
    site.publish(ticket, "meta")
    page = site.goto("/models")
    picture = page.locator("#own img")
    expect(picture).to_be_visible()
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 64
    picture.click()
    expect(page).to_have_url(f"{site.url}/models/meta")
    expect(page.locator("main")).to_contain_text("photos@2")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the model").click()
    assert Path(download.value.path()).read_bytes() == b"tensors"


def test_a_photo_is_stylised_and_compared(site: Site, service_settings: Settings, tmp_path: Path):
    photo = tmp_path / "mine.jpg"
    photo.write_bytes(jpeg(96, 64, seed=5))
    with working(service_settings, warm=True):
        name = trained_model(site.url, tmp_path)
        wait_until(lambda: site.bus.idle_workers() > 0, 30, "the worker is free")
        page = site.goto(f"/models/{name}")
        page.get_by_label("Photo").set_input_files(photo)
        page.get_by_role("button", name="Stylise").click()
        result = page.locator("#compare .after")
        expect(result).to_be_visible()
    assert result.evaluate("(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [
        96,
        64,
    ]
    page.get_by_label("before and after").fill("20")
    assert page.locator("#compare .stack").evaluate("(stack) => stack.style.getPropertyValue('--cut')") == "20%"


def test_datasets_show_their_state_and_what_was_refused(site: Site):
    site.add_dataset("photos")
    site.add_dataset("paintings", status="ingesting", count=None, bytes=None, refused=[])
    page = site.goto("/datasets")
    expect(page.locator(".dataset", has_text="photos")).to_contain_text("1 files could not be used")
    expect(page.locator(".dataset", has_text="paintings")).to_contain_text("ingesting")
    with site.db.write() as tx:
        tx.get_one(DatasetVersion, (site.tenant, "paintings", 1)).status = "ready"
    expect(page.locator(".dataset", has_text="paintings")).to_contain_text("ready")


# --- how it is made ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/models", "/datasets", "/methods", "/login"])
def test_nothing_runs_or_loads_from_elsewhere(site: Site, service_settings: Settings, path: str):
    """But for pictures, which come from the object store."""
    policy = site.page.request.get(site.url + path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    hosts: set[str] = set()
    pictures: set[str] = set()

    def note(request: Request) -> None:
        address = "/".join(request.url.split("/")[:3])
        (pictures if request.resource_type == "image" else hosts).add(address)

    site.page.on("request", note)
    site.goto(path)
    assert hosts == {site.url}
    assert pictures <= {site.url, service_settings.s3_url}


def test_a_phone_needs_no_sideways_scrolling(site: Site):
    job_id = site.submit("meta")
    ticket = site.begin()
    site.record(ticket, 1, 20, pictures=True)
    site.page.set_viewport_size({"width": 360, "height": 700})
    for path in ("/", f"/jobs/{job_id}", "/models", "/datasets", "/methods"):
        site.goto(path)
        assert site.page.evaluate("document.documentElement.scrollWidth") <= 360, path
