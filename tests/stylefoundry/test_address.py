"""Which service a client talks to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stylefoundry.address import Address, find_address
from stylefoundry.errors import NotConfigured

STACK = {"url": "http://127.0.0.1:8790", "api_key": "sf_stack", "id": "what else `up` keeps there"}


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stack in the working directory, where one looks by default."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".stylefoundry").mkdir()
    (tmp_path / ".stylefoundry" / "stack.json").write_text(json.dumps(STACK))
    return tmp_path / ".stylefoundry"


def test_arguments_go_before_the_environment(stack: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEFOUNDRY_URL", "http://elsewhere:1")
    monkeypatch.setenv("STYLEFOUNDRY_API_KEY", "sf_elsewhere")
    assert find_address("http://here:2", "sf_here", None) == Address("http://here:2", "sf_here")


def test_the_environment_goes_before_the_stack(stack: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEFOUNDRY_URL", "http://elsewhere:1")
    monkeypatch.setenv("STYLEFOUNDRY_API_KEY", "sf_elsewhere")
    assert find_address(None, None, None) == Address("http://elsewhere:1", "sf_elsewhere")


def test_a_data_directory_that_is_named_goes_before_the_environment(stack: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEFOUNDRY_URL", "http://elsewhere:1")
    monkeypatch.setenv("STYLEFOUNDRY_API_KEY", "sf_elsewhere")
    assert find_address(None, None, stack) == Address("http://127.0.0.1:8790", "sf_stack")


def test_without_a_word_it_is_the_stack_of_the_working_directory(stack: Path):
    assert find_address(None, None, None) == Address("http://127.0.0.1:8790", "sf_stack")


def test_the_key_of_a_stack_is_never_sent_to_another_address(stack: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEFOUNDRY_URL", "http://elsewhere:1")
    with pytest.raises(NotConfigured, match="STYLEFOUNDRY_API_KEY"):
        find_address(None, None, None)


def test_where_nothing_is_known_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotConfigured, match="stylefoundry up"):
        find_address(None, None, None)


def test_a_damaged_state_file_is_named(stack: Path):
    (stack / "stack.json").write_text('{"url": ')
    with pytest.raises(NotConfigured, match=r"stack\.json cannot be used"):
        find_address(None, None, None)
