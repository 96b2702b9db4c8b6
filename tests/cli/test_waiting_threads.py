"""Threads of PyTorch do not spin while they wait, unless who runs us says so."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from glmimage.__main__ import main
sys.argv = ["glmimage", "--version"]
try:
    main()
finally:
    print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
"""


@pytest.mark.parametrize(("given", "kept"), [(None, "0"), ("5000", "5000")])
def test_waiting_threads_sleep(given, kept):
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if given:
        environment["GOMP_SPINCOUNT"] = given
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{kept} False"  # set before PyTorch reads it
