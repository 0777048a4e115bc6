"""Who may import whom, over exactly what CONTRIBUTING.md shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONTRACTS = Path(__file__).with_name("layers.toml")


def test_every_import_goes_down_the_layers():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(CONTRACTS), "--no-cache"]
    linted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_control_plane_starts_without_torch():
    program = "import sys, orchestrator.api.app, orchestrator.dispatch.loop; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch was imported"


def test_the_client_starts_without_the_service():
    heavy = "{'torch', 'ray', 'sqlalchemy', 'pydantic'}"
    program = f"import sys, stylefoundry.cli; sys.exit(str({heavy} & {{*sys.modules}} or '') or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
