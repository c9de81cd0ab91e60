"""Flower as a person sees it, in a real browser, with a real worker that works on real chunks."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import obstore
import pytest
from pydantic import SecretStr
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from config.messages import Chunk, Job
from producer.enqueuer import Enqueuer
from producer.local_stack import running_flower
from producer.ports import free_ports
from tests.conftest import require
from tests.images import noise

#: Seconds for a page to show what it must; a worker may have to convert a network first.
PATIENCE_S = 120

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1500,900",
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    """A new Chromium that has never been anywhere."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    require(chromium and driver, "chromium with chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    started = webdriver.Chrome(options, webdriver.ChromeService(str(driver)))
    yield started
    started.quit()


def shown(browser: WebDriver, selector: str) -> str:
    """The text of a part of the page, or nothing where the part is not there."""
    found = browser.find_elements(By.CSS_SELECTOR, selector)
    return " ".join(element.get_attribute("textContent") or "" for element in found)


def test_a_person_logs_in_and_sees_the_workers_and_the_chunks_of_a_run(
    browser, settings, bucket, store, worker, tmp_path
):
    require(find_spec("flower"), "flower")
    settings = settings.model_copy(update={"flower_port": free_ports(1)[0], "flower_password": SecretStr("let me/in")})
    keys = [f"photos/{number}.jpg" for number in range(6)]
    for number, key in enumerate(keys):
        obstore.put(store, key, noise(number))
    job = Job(
        run_id="20261122-112258-classify-efficientnet-lite0-af29",
        model="efficientnet_lite0",
        output=f"s3://{bucket}/results",
    )
    chunks = [Chunk(job=job, bucket=bucket, keys=tuple(keys[start : start + 2]), start=start) for start in (0, 2, 4)]

    with running_flower(settings, tmp_path):
        worker()
        with Enqueuer(settings, settings.queue, print, Event()) as enqueuer:
            enqueuer.send(chunks)

        def visit(page: str, login: str = "") -> None:
            browser.get(f"http://{login}{settings.flower_address}:{settings.flower_port}{page}")

        for login in ("", "pixelherd:wrong@", "stranger:let%20me%2Fin@"):
            visit("/tasks", login)
            assert shown(browser, "body").strip() == ""  # a browser that is refused waits for the login

        visit("/workers", "pixelherd:let%20me%2Fin@")
        WebDriverWait(browser, PATIENCE_S).until(lambda _: "pixelherd-" in shown(browser, "#workers-table tbody"))
        browser.save_screenshot(str(tmp_path / "workers.png"))

        def all_done(_: WebDriver) -> bool:
            visit("/tasks")
            WebDriverWait(browser, PATIENCE_S).until(lambda _: browser.find_elements(By.CSS_SELECTOR, rows))
            return shown(browser, rows).count("SUCCESS") == len(chunks)

        rows = "#tasks-table tbody tr"
        WebDriverWait(browser, PATIENCE_S).until(all_done)
        browser.save_screenshot(str(tmp_path / "tasks.png"))
        text = shown(browser, rows).replace("\n", " ")
        for chunk in chunks:
            assert f"run={job.run_id} mode=classify model=efficientnet_lite0 chunk={chunk.chunk_id} images=2" in text
        assert keys[0] not in text
