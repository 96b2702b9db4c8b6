"""The unmodified JavaScript clients from npm against a started service."""

import os
import subprocess
from pathlib import Path

import pytest

JAVASCRIPT = Path(__file__).parent / "javascript"


@pytest.mark.parametrize("name", ["client", "server_proxy", "next_proxy", "old_client"])
def test_under_exec(service, node_modules, name):
    environment = {**service.environment, "SERVER": f"https://{service.target.address}"}
    printed = service.execute(
        "node", "--test", f"{name}.test.mjs", cwd=JAVASCRIPT, env=environment, timeout=600
    )
    assert "fail 0" in printed


def test_a_start_that_comes_too_late(service, node_modules):
    with service.paused():
        printed = service.execute("node", "--test", "late_start.test.mjs", cwd=JAVASCRIPT)
    assert "fail 0" in printed


def test_led_here_by_its_own_settings(service, node_modules):
    done = subprocess.run(
        ["node", "--test", "redirected.test.mjs"],
        cwd=JAVASCRIPT,
        env={
            **{name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"},
            "SERVER": f"https://{service.target.address}",
            "FAL_KEY": service.target.api_key,
            "NODE_EXTRA_CA_CERTS": str(service.target.ca),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
