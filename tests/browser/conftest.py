"""A browser, and a page of it on a running service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from orchestrator.settings import Settings
from tests.browser.site import Site
from tests.stylefoundry.conftest import service, service_settings

__all__ = ["service", "service_settings"]

# Chromium notes every answer that is no success; these a form expects and tells in its own words.
REFUSALS = ("status of 422", "status of 503")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page is not tested")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh profile. What a page complains about in the console fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    page = context.new_page()
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(refusal in message.text for refusal in REFUSALS):
            complaints.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(15_000)
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def visit(service: str, service_settings: Settings, page: Page) -> Iterator[Site]:
    """Not logged in. The page closes before the service does: it would complain."""
    site = Site(page, service, service_settings)
    yield site
    site.db.dispose()


@pytest.fixture
def site(visit: Site) -> Site:
    visit.log_in()
    return visit
