"""The real page in the system's Chromium, on a really started `glmimage serve`.

Screenshots of each state are kept in out/browser/. GLMIMAGE_BROWSER_MODEL=nano shows real pictures.
"""

import os
import shutil
from pathlib import Path

import httpx
import pytest
from PIL import Image

from ..running_service import Service, run_to_its_end

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "out" / "browser"
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WITHIN_MS = 120_000  # on a machine that is busy with other tests
DESKTOP = {"width": 1360, "height": 860}
PHONE = {"width": 390, "height": 844}


# Playwright keeps an event loop running in this thread until it is stopped: not past these tests,
# since those that follow want loops of their own.
@pytest.fixture(scope="package")
def chromium():
    """Start the browser once, or skip."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def service(chromium, tmp_path_factory, tiny_dir):
    model = os.environ.get("GLMIMAGE_BROWSER_MODEL") or tiny_dir
    yield from run_to_its_end(Service(tmp_path_factory.mktemp("browser"), model))


@pytest.fixture(scope="package")
def http(service):
    """Return a client of the API itself, with the viewer's key."""
    headers = {"authorization": f"Key {service.target.api_key}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def visit(chromium, service):
    """Return a function that opens the page as a new viewer; requests elsewhere fail the test."""
    contexts, faults, strangers = [], [], []

    def open_page(path="/", *, key=True, viewport=None, **options):
        context = chromium.new_context(viewport=viewport or DESKTOP, **options)
        contexts.append(context)
        context.set_default_timeout(WITHIN_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: _note_violation(message, faults))
        page.on("request", lambda request: _note_stranger(request, service, strangers))
        page.goto(service.url + path + (f"#key={service.target.api_key}" if key else ""))
        page.wait_for_selector(".composer")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert strangers == []


def _note_violation(message, faults):
    if "Content Security Policy" in message.text:
        faults.append(message.text)


def _note_stranger(request, service, strangers):
    if not request.url.startswith((service.url, "data:", "blob:")):
        strangers.append(request.url)


@pytest.fixture
def shoot():
    """Return a function that keeps a screenshot of a page's state."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def take(page, name):
        # what fades in is there
        page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")

    return take


@pytest.fixture(scope="session")
def axe():
    """Return a function that gives a page's serious faults by axe-core's rules, or skip."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci in tests/browser")

    def check(page):
        page.evaluate(AXE.read_text())  # by the debugger, which the page's policy does not bind
        found = page.evaluate("axe.run()")
        assert found["passes"], "no rule was tried"
        return [
            (one["id"], [node["target"] for node in one["nodes"]])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    return check


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Draw two references."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for name, colour in (("house", (196, 92, 70)), ("hills", (70, 130, 96))):
        image = Image.linear_gradient("L").resize((480, 360))
        path = folder / f"{name}.png"
        Image.merge("RGB", [image.point(lambda v, c=c: (v + c) // 2) for c in colour]).save(path)
        paths.append(path)
    return paths
