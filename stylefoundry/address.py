"""Where the service is and with which key: told, from the environment, or the stack that runs on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from stylefoundry.errors import NotConfigured

DATA_DIR = ".stylefoundry"
STATE_FILE = "stack.json"  # what `stylefoundry up` keeps in its data directory


class Address(NamedTuple):
    url: str
    api_key: str


def find_address(url: str | None, api_key: str | None, data_dir: Path | str | None) -> Address:
    """The first that is known: the arguments, STYLEFOUNDRY_URL and _API_KEY, the stack of `data_dir`.

    data_dir: default STYLEFOUNDRY_DATA_DIR, else `.stylefoundry`. An address without a key is not completed from a
    stack's file: the key would go to somebody else. Raises NotConfigured.
    """
    if data_dir is None or url is not None:
        url = url or os.environ.get("STYLEFOUNDRY_URL")
        api_key = api_key or os.environ.get("STYLEFOUNDRY_API_KEY")
        if url:
            if not api_key:
                raise NotConfigured(f"no API key for {url}: set STYLEFOUNDRY_API_KEY")
            return Address(url, api_key)
    return stack_address(folder_of(data_dir), api_key)


def folder_of(data_dir: Path | str | None) -> Path:
    """The data directory that is meant."""
    return Path(data_dir or os.environ.get("STYLEFOUNDRY_DATA_DIR") or DATA_DIR)


def stack_address(folder: Path, api_key: str | None) -> Address:
    """Of the stack that keeps its data in `folder`, running or not."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        return Address(state["url"], api_key or state["api_key"])
    except FileNotFoundError:
        raise NotConfigured(
            f"no service is known: there is no stack in {folder} (start one: stylefoundry up), "
            "and STYLEFOUNDRY_URL is not set"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise NotConfigured(f"{folder / STATE_FILE} cannot be used: {error}") from error
