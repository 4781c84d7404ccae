"""A real browser looks at a run in Prefect's UI, cancels it there, and opens the report.

Screenshots go to build/screenshots (HAPO_SCREENSHOTS names another folder).
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import REPO, PrefectServer, Project, eventually, long
from real_runs import finish, stage_pids
from report_run import STORIES, make_run

from pipeline.flows.observer import Observer
from pipeline.report.stage import write_report

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --window-size=1400,1200"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """Debian's chromium without a window and with a new profile; skips where there is none."""
    selenium = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here (apt-get install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def shot(browser: WebDriver, name: str) -> Path:
    """A screenshot that people look at afterwards."""
    folder = Path(os.environ.get("HAPO_SCREENSHOTS", REPO / "build" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    assert browser.save_screenshot(str(path))
    assert path.stat().st_size > 10_000
    return path


def find(browser: WebDriver, text: str, tag: str = "*") -> Any:
    """The visible element with exactly this text; without a tag, the innermost."""
    from selenium.common.exceptions import StaleElementReferenceException

    same = f"normalize-space(.)='{text}'"
    path = f"//{tag}[{same}]" if tag != "*" else f"//*[{same} and not(*[{same}])]"

    def look() -> Any:
        try:
            return next((e for e in browser.find_elements("xpath", path) if e.is_displayed()), None)
        except StaleElementReferenceException:  # the page was drawn anew in between
            return None

    return eventually(look, seconds=60)


def click(browser: WebDriver, text: str, tag: str = "*") -> None:
    """Click on what `find` finds, again where the page was busy with something else."""
    from selenium.common.exceptions import (
        ElementClickInterceptedException,
        StaleElementReferenceException,
    )

    def press() -> bool:
        try:
            find(browser, text, tag).click()
        except (StaleElementReferenceException, ElementClickInterceptedException):
            return False
        return True

    eventually(press, seconds=60)


def log_in(browser: WebDriver, server: PrefectServer) -> None:
    """With the password, at the page that the UI shows to whoever has none."""
    home = server.api.removesuffix("/api")
    browser.get(home)
    field = eventually(lambda: browser.find_elements("css selector", "input[type=password]"), 60)[0]
    shot(browser, "login")
    field.send_keys(server.auth)
    click(browser, "Login", "button")
    eventually(lambda: not browser.find_elements("css selector", "input[type=password]"), 60)


def words(browser: WebDriver) -> str:
    """All text of the page."""
    return str(browser.find_element("tag name", "body").text)


@pytest.fixture
def running(finished_project: Project, prefect_server: PrefectServer) -> Iterator[tuple[Any, str]]:
    """(process, address of its page) of a run that is in the middle of train@2."""
    project = finished_project
    project.env |= {**prefect_server.env, "HAPO_PROGRESS_SECONDS": "0"}
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 40}')
    project.env["TOY_SECONDS"] = "240"
    run = project.start("pipeline.cli", "run")
    assert run.stdout is not None
    seen = ""
    while "train@2  round 3/40" not in seen:
        line = run.stdout.readline()
        assert line, seen
        seen += line
    match = re.search(r"http://\S+/runs/flow-run/\S+", seen)
    assert match is not None
    try:
        yield run, match[0]
    finally:
        run.kill()
        run.wait()


@long
def test_watch_and_cancel_in_the_ui(
    browser: WebDriver,
    running: tuple[Any, str],
    finished_project: Project,
    prefect_server: PrefectServer,
) -> None:
    """The page shows stages, rounds, logs and the table; its Cancel button ends the processes."""
    run, page = running
    log_in(browser, prefect_server)
    browser.get(page)
    eventually(lambda: "Running stage 'train@2':" in words(browser))
    assert "Stage 'train@1' didn't change, skipping" in words(browser)
    shot(browser, "run")
    click(browser, "Task Runs")
    eventually(lambda: {"curate", "base", "train@1"} <= set(words(browser).split()))
    assert words(browser).count("Cached") >= 3
    shot(browser, "cached-stages")
    click(browser, "Subflow Runs")
    click(browser, "train@2", "a")
    eventually(lambda: "round 3/40" in words(browser))
    lines = re.findall(r"round \d+/40", words(browser))
    assert len(lines) == len(set(lines)) >= 3  # no line is doubled
    click(browser, "Task Runs")
    eventually(lambda: re.search(r"(rollout|verify|gate|update) \d+", words(browser)))
    shot(browser, "rounds")
    click(browser, "Artifacts")
    click(browser, "rounds-2")
    eventually(lambda: "truncated" in words(browser) and "320" in words(browser))
    shot(browser, "table-of-rounds")

    browser.get(page)
    click(browser, "Cancel", "button")
    find(browser, "Cancel Flow Run")
    shot(browser, "cancel-dialog")
    pressed = time.monotonic()
    click(browser, "Confirm", "button")
    eventually(lambda: not set(stage_pids(finished_project)) - {run.pid}, seconds=10)
    gone = time.monotonic() - pressed
    assert run.wait(timeout=20) == 130
    print(f"children gone {gone:.1f} s, the run {time.monotonic() - pressed:.1f} s after the click")
    find(browser, "Cancelled")
    shot(browser, "cancelled")
    finish(finished_project)
    where = {"artifacts": {"key": {"any_": ["segment-2"]}}, "sort": "CREATED_DESC"}
    newest = prefect_server.post("/artifacts/filter", where)[0]["id"]
    browser.get(page.split("/runs/")[0] + f"/artifacts/artifact/{newest}")
    eventually(lambda: _drawn(browser) == 2)
    shot(browser, "segment-report")


FOREIGN = """<!doctype html><title>foreign</title><script>
const api = %r, said = {}, json = {'content-type': 'application/json'};
async function tries() {
  const ways = {
    json: {method: 'POST', headers: json, body: '{}'},
    credentials: {method: 'POST', headers: json, body: '{}', credentials: 'include'},
    simple: {method: 'POST', body: '{"name": "planted"}'},
    get: {method: 'GET', credentials: 'include'},
  };
  for (const [name, options] of Object.entries(ways)) {
    for (const path of ['/flow_runs/filter', '/flows/', '/admin/version', '/health']) {
      try { const r = await fetch(api + path, options); said[name + path] = r.status; }
      catch (error) { said[name + path] = 'refused'; }
    }
  }
  const blind = {method: 'POST', mode: 'no-cors', body: '{"name": "planted"}'};
  try { await fetch(api + '/flows/', blind); } catch (error) {}
  window.said = said;
}
tries();
</script>"""


def test_the_ui_asks_for_the_password(browser: WebDriver, prefect_server: PrefectServer) -> None:
    """Without it nothing is shown; a wrong one does not log in; the right one does."""
    home = prefect_server.api.removesuffix("/api")
    browser.get(f"{home}/runs")
    field = eventually(lambda: browser.find_elements("css selector", "input[type=password]"), 60)[0]
    field.send_keys("hapo:guess")
    click(browser, "Login", "button")
    time.sleep(2)
    assert browser.find_elements("css selector", "input[type=password]")
    log_in(browser, prefect_server)
    browser.get(f"{home}/dashboard")
    eventually(lambda: "Deployments" in words(browser), 60)
    shot(browser, "dashboard")


def test_a_foreign_page_cannot_call_our_server(
    browser: WebDriver, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    """A page of another origin, in the browser that is logged in to the UI: every request is
    refused by the browser or by the server, and nothing is written."""
    log_in(browser, prefect_server) if "/login" in browser.current_url else None
    (tmp_path / "page.html").write_text(FOREIGN % prefect_server.api)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{other.server_port}/page.html")
        said = eventually(lambda: browser.execute_script("return window.said"), 60)
        other.shutdown()
    assert len(said) == 16 and set(said.values()) == {"refused"}, said
    named = {"flows": {"name": {"any_": ["planted"]}}}
    assert prefect_server.post("/flows/filter", named) == []


def _drawn(browser: WebDriver) -> int:
    """How many data images of the page have really been drawn."""
    script = """return [...document.images].filter(i => i.src.startsWith('data:image/svg')
        && i.complete && i.naturalWidth > 100).length"""
    return int(browser.execute_script(script))


def test_the_report_in_a_browser(browser: WebDriver, tmp_path: Path) -> None:
    """It opens from the disk, with its figures, and the browser has nothing to complain about."""
    make_run(tmp_path, STORIES["hapo"])
    page = write_report(Observer("report"), tmp_path)
    browser.get_log("browser")  # forget what Prefect's pages said
    browser.get(page.as_uri())
    figures = browser.execute_script("return [...document.querySelectorAll('svg')].length")
    assert figures >= 3
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wide) <= 0  # no sideways scrolling
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    shot(browser, "report")
