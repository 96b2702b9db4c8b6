"""Take README's picture of the playground from a `glmimage serve` that paints with nano.

    python scripts/playground_picture.py [-o docs/images/playground.png] [--within 60]

Needs Chromium and the development packages. The times in the picture are this machine's at that
moment, so let it be idle: a painting that took longer than --within seconds is not kept,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
PROMPT = "A poster with the headline 'OPEN DAY' and below it 'Saturday 10 am'"
SEED, STEPS = "6", "12"
WAIT_MS = 300_000
LOADED = (
    "() => { const one = document.querySelector('.finished img');"
    " return one && one.complete && one.naturalWidth }"
)
TO_THE_TOP = "document.querySelectorAll('.composer, .composer *').forEach(one => one.scrollTop = 0)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = ROOT / "docs" / "images" / "playground.png"
    parser.add_argument("-o", "--output", type=Path, default=target)
    parser.add_argument("--within", type=float, default=60, metavar="SECONDS")
    options = parser.parse_args()

    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    chromium = next(filter(None, browsers), None)
    if chromium is None:
        print("There is no Chromium on the path. Install your system's package.", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder)) as link,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 860}, color_scheme="light")
        page.set_default_timeout(WAIT_MS)
        page.goto(link)
        seconds = paint(page)
        if seconds <= options.within:
            page.screenshot(path=options.output)
        browser.close()
    print(f"painted in {seconds:g} s")
    if seconds > options.within:
        print(f"No picture: that is more than {options.within:g} s.", file=sys.stderr)
        return 1
    print(options.output)
    return 0


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run `glmimage serve` with nano and yield the page's link, once a worker is ready."""
    own = {"GLMIMAGE_DATA_DIR": str(folder), "GLMIMAGE_MODEL": "nano", "GLMIMAGE_DEVICE": "cpu"}
    others = {name: value for name, value in os.environ.items() if "GLMIMAGE_" not in name}
    command = [sys.executable, "-m", "glmimage", "serve", "--http-port", "0", "--https-port", "0"]
    process = subprocess.Popen(command, env=others | own, stdout=subprocess.PIPE, text=True)
    try:
        link = ""
        for line in process.stdout or ():
            if found := re.match(r"\s*page\s+(http\S+)", line):
                link = found[1]
            if line.startswith("Ready"):
                break
        else:
            raise SystemExit("The server ended before it was ready; its messages are above.")
        yield link
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def paint(page: Page) -> float:
    """Fill the form, wait for the picture, and return the seconds that the page shows in all."""
    page.fill("#prompt", PROMPT)
    page.check("input[name=image_size][value=square]")
    page.fill("[aria-label='Steps, exact value']", STEPS)
    page.fill("#seed", SEED)
    page.click("button[type=submit]")
    page.wait_for_function(LOADED)
    page.wait_for_selector(".past img")
    page.evaluate(TO_THE_TOP)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # what fades in is there
    shown = page.locator(".timings").inner_text()
    (seconds,) = re.findall(r"In all\s+([\d.]+) s", shown)
    return float(seconds)


if __name__ == "__main__":
    sys.exit(main())
