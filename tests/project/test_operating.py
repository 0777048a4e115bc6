"""docs/operating.md lists every setting, with the default and the words that stand in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from orchestrator.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
ROW = re.compile(r"^\| `STYLEFOUNDRY_(\w+)` \| (?:`(.*)`)? ?\| (.*) \|$", re.MULTILINE)


def shown_default(field: FieldInfo) -> str:
    default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_page_lists_the_settings_that_there_are():
    rows = {name.lower(): (default, words) for name, default, words in ROW.findall(PAGE.read_text())}
    assert rows == {name: (shown_default(field), field.description) for name, field in Settings.model_fields.items()}


def test_a_line_of_the_toml_file_is_a_setting_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "settings.toml"
    file.write_text('lease_s = 7.5\nhost = "10.0.0.1"\n')
    monkeypatch.setenv("STYLEFOUNDRY_CONFIG", str(file))
    monkeypatch.setenv("STYLEFOUNDRY_HOST", "10.0.0.2")
    settings = Settings()
    assert (settings.lease_s, settings.host) == (7.5, "10.0.0.2")
