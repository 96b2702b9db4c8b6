"""Measure the job store; the code is in job_store.py.

This file's name is also one of the standard library's, and `python bench/anything.py` puts this
folder first on the path. Imported as a module it therefore steps aside.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from job_store import main

    main()
else:
    spec = importlib.util.spec_from_file_location(
        "queue", Path(sysconfig.get_path("stdlib")) / "queue.py"
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["queue"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["queue"])
