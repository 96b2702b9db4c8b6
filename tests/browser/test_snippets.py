"""The page's "same call as code" in Python and JavaScript, copied and run as its first line says.

Curl's is in test_playground.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CLIENTS = Path(__file__).parents[1] / "clients" / "javascript" / "node_modules"
PROMPT = "A \"quoted\" sign \\ that says 'OPEN'\nat night, 日本 🎨, @seed@"
LARGE_SEED = str(2**63 - 1)  # no number of JavaScript's


def copied(page, language):
    """Copy a snippet by its button."""
    page.locator(".code .segment", has_text=language).click()
    page.locator(".code").get_by_role("button", name="Copy").click()
    page.wait_for_selector(".code >> text=Copied")
    page.wait_for_selector(".code >> text=/^Copy$/")
    return page.evaluate("navigator.clipboard.readText()")


def run(snippet, folder, service):
    """Do what the snippet's first line says, where `glmimage` is installed; return its output."""
    (command,) = re.findall(r"run it with: (.+)", snippet.splitlines()[0])
    (folder / command.split()[-1]).write_text(snippet, encoding="utf-8")
    programs = os.pathsep.join([str(Path(sys.executable).parent), service.environment["PATH"]])
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**service.environment, "PATH": programs},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def painted(http, address):
    """Fetch a picture by the plain port."""
    return http.get(urlsplit(address).path).raise_for_status().content


def test_python_and_javascript(visit, service, http, photos, tmp_path):
    """The same picture again: of an edit in a size of one's own, with a seed to the last digit."""
    pytest.importorskip("fal_client", reason="fal-client is not installed")
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.set_input_files("input[type=file]", photos)
    page.wait_for_function("() => document.querySelectorAll('.reference').length === 2")
    page.fill("#prompt", PROMPT)
    page.check("input[value=custom]")
    page.fill("[aria-label='width in pixels']", "512")
    page.fill("[aria-label='height in pixels']", "544")
    page.fill("[aria-label='Steps, exact value']", "10")
    page.fill("#seed", LARGE_SEED)
    page.click("button[type=submit]")
    page.wait_for_function(
        "() => { const one = document.querySelector('.finished img');"
        " return one && one.complete && one.naturalWidth }"
    )
    assert f"seed {LARGE_SEED}" in page.locator(".run-facts").inner_text()
    shown = painted(http, page.locator(".finished img").get_attribute("src"))
    page.click("text=The same call as code")

    (address,) = run(copied(page, "Python"), tmp_path, service)
    assert painted(http, address) == shown
    if not (shutil.which("node") and (CLIENTS / "@fal-ai" / "client").is_dir()):
        pytest.skip(
            "JavaScript was not run: node, or npm ci in tests/clients/javascript, is missing"
        )
    (tmp_path / "node_modules").symlink_to(CLIENTS)
    (address,) = run(copied(page, "JavaScript"), tmp_path, service)
    assert painted(http, address) == shown
