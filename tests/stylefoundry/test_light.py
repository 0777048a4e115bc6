"""What a laptop installs stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "ray", "sqlalchemy", "fastapi", "pydantic", "minio", "redis", "orchestrator", "stylemodels")


@pytest.mark.parametrize("module", ["stylefoundry", "stylefoundry.cli"])
def test_importing_it_loads_nothing_of_the_server_or_the_library(module: str):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_that_is_exported_is_there():
    import stylefoundry

    assert all(hasattr(stylefoundry, name) for name in stylefoundry.__all__)
