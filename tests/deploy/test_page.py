"""The page in a real browser, in front of `bodyparts serve` and the shipped model."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detectron2_bodyparts.deploy import OnnxPredictor, default_model
from detectron2_bodyparts.schema import BODYPARTS_11

for module in ("fastapi", "uvicorn", "websockets", "python_multipart", "swagger_ui_bundle"):
    pytest.importorskip(module, reason=f"needs detectron2_bodyparts[serve]: no {module}")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("the page needs a browser: no chromium is installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
WAIT = 20_000  # ms; nothing here takes as long on an idle machine
PICTURE = cv2.imread(str(default_model().with_name("astronaut.jpg")))
CONNECTED = "#connection.connected"


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """`bodyparts serve` in a process of its own; gives the URL that it prints."""
    command = [sys.executable, "-m", "detectron2_bodyparts.cli", "serve", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[0], process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("--port", "0") as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, whose camera shows one picture for ever."""
    film = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    film.write_bytes(jpeg(enlarged(PICTURE)) * 2)
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-video-capture={film}",
            ],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page that fails the test if a script fails or the content security policy is hurt."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_default_timeout(WAIT)
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None,
    )
    yield page
    keep = os.environ.get("BODYPARTS_SCREENSHOTS")  # a folder, to look at them
    if keep:
        page.screenshot(path=Path(keep) / f"{os.environ['PYTEST_CURRENT_TEST'].split(':')[-1]}.png")
    page.close()
    assert faults == []


def enlarged(image: np.ndarray) -> np.ndarray:
    """(480, 640, 3): what cameras give."""
    return cv2.resize(image, (640, 480))


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def drop(page, data: bytes, name: str, media_type: str) -> None:
    """Drop a file on the page as a mouse does."""
    transfer = page.evaluate_handle(
        """([data, name, type]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [base64.b64encode(data).decode(), name, media_type],
    )
    page.dispatch_event("#stage", "drop", {"dataTransfer": transfer})


def drawn(page) -> np.ndarray:
    """The canvas, (H, W, 3) RGB."""
    data = page.evaluate("document.getElementById('view').toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def wait_for_people(page) -> None:
    page.locator("#people", has_text=re.compile("[1-9]")).wait_for()


def test_a_dropped_picture_is_drawn_and_what_is_drawn_can_be_chosen(page, url):
    page.goto(url)
    page.wait_for_selector(CONNECTED)
    assert page.locator("#legend li").all_inner_texts() == [
        name.replace("_", " ") for name in BODYPARTS_11.channels
    ]
    drop(page, jpeg(PICTURE), "people.jpg", "image/jpeg")
    wait_for_people(page)
    everything = drawn(page)
    assert everything.shape == PICTURE.shape

    page.uncheck("#parts")
    page.uncheck("#skeleton")
    plain = drawn(page)
    assert np.abs(plain - PICTURE[:, :, ::-1]).mean() < 3  # JPEG twice

    page.check("#parts")
    # Half torso's colour, half picture, where a torso is.
    (person,) = OnnxPredictor(default_model(), threshold=0.5)(PICTURE)
    blended = (plain + np.array(BODYPARTS_11.colors[BODYPARTS_11.index("torso")])) / 2
    right = np.abs(drawn(page) - blended).max(axis=2) <= 2
    assert right[person.part("torso")].mean() > 0.9
    assert (drawn(page) == plain)[~person.body].mean() > 0.9

    page.check("#skeleton")
    assert np.array_equal(drawn(page), everything)
    page.check("#boxes")
    assert (drawn(page) != everything).any()


def test_the_camera_is_streamed_until_it_is_stopped(page, url):
    page.goto(url)
    page.wait_for_selector(CONNECTED)
    page.click("#camera")
    wait_for_people(page)
    page.locator("#fps", has_text=re.compile("[1-9]")).wait_for()
    assert drawn(page).shape == (480, 640, 3)
    page.click("#camera")
    assert page.locator("#camera").inner_text() == "Start camera"


def test_on_a_phone_nothing_is_wider_than_the_screen(page, url):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(url)
    page.set_input_files(
        "#file", {"name": "p.jpg", "mimeType": "image/jpeg", "buffer": jpeg(PICTURE)}
    )
    wait_for_people(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_large_picture_is_shrunk_before_it_is_sent(page, url):
    page.goto(url)
    page.wait_for_selector(CONNECTED)
    large = cv2.resize(PICTURE, (3200, 2400))
    drop(page, jpeg(large), "large.jpg", "image/jpeg")
    wait_for_people(page)
    assert drawn(page).shape == (960, 1280, 3)


def test_what_is_wrong_is_said(page, url):
    page.add_init_script(
        "navigator.mediaDevices.getUserMedia = () =>"
        "  Promise.reject(new DOMException('', 'NotAllowedError'))"
    )
    page.goto(url)
    page.wait_for_selector(CONNECTED)
    page.click("#camera")
    page.wait_for_selector("text=not allowed to use the camera")
    drop(page, b"no picture", "notes.txt", "text/plain")
    page.wait_for_selector("text=notes.txt: this is no picture")


def test_the_token_comes_from_the_address_and_a_lost_server_is_found_again(page):
    with serving("--port", "0", "--token", "a b&c") as (url, process):
        page.goto(url.partition("?")[0])
        page.wait_for_selector("text=The server wants a token")
        page.goto(url)
        page.wait_for_selector(CONNECTED)
        process.kill()
        page.wait_for_selector("text=server gone")
    port = re.search(r":(\d+)/", url)[1]
    with serving("--port", port, "--token", "a b&c"):
        page.wait_for_selector(CONNECTED)
        drop(page, jpeg(PICTURE), "people.jpg", "image/jpeg")
        wait_for_people(page)


def test_the_api_is_documented_without_scripts_from_elsewhere(page, url):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}docs")
    page.wait_for_selector("text=/predict")
    assert all(address.startswith((url, "data:")) for address in asked)
