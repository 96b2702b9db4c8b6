"""The server imports the store, so the store costs no torch."""

import subprocess
import sys


def test_the_store_is_read_without_torch():
    script = "import sys, glmimage.jobs; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"
