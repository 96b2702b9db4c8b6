"""Who imports whom, and what a quick command may cost."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# run one command in a fresh interpreter, then say which heavy packages it brought along
PROBE = """
import sys
from glmimage.cli import run
try:
    code = run(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = {"torch", "transformers", "diffusers", "huggingface_hub", "sqlalchemy", "starlette"}
heavy = sorted((heavy | {"uvicorn", "cryptography"}) & set(sys.modules))
print("\\nPROBE", code, *heavy)
"""


def in_fresh_interpreter(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["generate", "--help"], 0),
        (["--version"], 0),
        (["generate", "A poster", "--size", "1000x1000"], 2),
        (["generate", "A poster", "--image", "absent.png"], 2),
        (["generate", "A poster", "--device", "tpu"], 2),
        (["generate", "A poster", "-o", "absent/a.png"], 2),
        (["generate", "A poster", "--model", "nowhere"], 2),
        (["make-tiny", str(ROOT)], 2),
        (["serve", "--help"], 0),
        (["keys"], 2),
        (["env", "--data-dir", "/nowhere"], 2),
        (["serve", "--workers", "-1"], 2),
        (["worker", "--stages", "paint"], 2),
    ],
)
def test_help_and_refusals_do_not_wait_for_what_is_heavy(arguments, code):
    assert in_fresh_interpreter(PROBE, *arguments) == f"PROBE {code}"


MODULES = (
    " .errors .types .source_images .config .redirect.connect_proxy .jobs .files .policy"
    " .server.app .server.process .server.tls"
).split(" ")


@pytest.mark.parametrize("module", MODULES)
def test_values_are_read_without_torch(module):
    script = f"import sys, glmimage{module}; print('torch' in sys.modules)"
    assert in_fresh_interpreter(script) == "False"


def test_layers_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
