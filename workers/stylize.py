"""Stylise requests: taken from Redis while a warm worker is idle, answered over Redis.

A request is {"id", "model": {"prefix", "files"}, "params": {control: value}, "weights": [number, …] | null, "format":
"png" | "png16" | "jpeg" | "webp", "styles": n, "masks": bool, "regions": [label maps of the content, of styles],
"init_image": bool, "maps": bool, "timeout_s"}, with the blobs `content`, `style-0`, …, `mask-0`, …,
`content_labels-0`, …, `style_labels-0`, … and `init_image` as they were sent. The answer's head is {"status": 200,
"content_type", "width", "height"} with the picture, or {"status": 422, "detail", "pointer": a field of the form | null}
or {"status": 500 | 503, "detail"} without bytes. All of it expires by itself.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis
import structlog
import torch

from orchestrator.objects import Corrupt, Missing
from stylemodels.checkpoint import Damaged
from stylemodels.export import CONFIG_FILE, MODEL_FILE
from stylemodels.stylize import Model, load_model
from workers.drawing import Expired, Refused, draw
from workers.inputs import weights_of
from workers.patience import Patience, brief, is_away
from workers.platform import Platform

log = structlog.get_logger()

KEPT_MODELS = 4
ANSWER_EXPIRES_S = 60
POLL_S = 1.0  # below the expiry of the worker's presence
STORE_PATIENCE_S = 5.0  # somebody is waiting


class Models:
    """The models that were asked for last, by digest."""

    def __init__(self, platform: Platform, patience: Patience | None = None) -> None:
        """patience: with a store that is away; by default of somebody who waits for a picture."""
        self._platform, self._patience = platform, patience
        self._loaded: OrderedDict[tuple[str, str], Model] = OrderedDict()

    def get(self, pinned: Mapping[str, Any]) -> Model:
        """pinned: {"prefix", "files"}. Raises Missing, Corrupt, Damaged or ValueError when it cannot be used."""
        digests = {file["path"]: str(file["sha256"]) for file in pinned["files"]}
        key = digests[MODEL_FILE], digests[CONFIG_FILE]
        if key not in self._loaded:
            self._loaded[key] = self._load(str(pinned["prefix"]), digests)
        self._loaded.move_to_end(key)
        while len(self._loaded) > KEPT_MODELS:
            self._loaded.popitem(last=False)
        return self._loaded[key]

    def _load(self, prefix: str, digests: Mapping[str, str]) -> Model:
        patience = self._patience or Patience(STORE_PATIENCE_S)
        with TemporaryDirectory(prefix="model-") as name:
            for file in (MODEL_FILE, CONFIG_FILE):
                fetch = partial(self._platform.objects.stream, f"{prefix}/{file}")
                content = patience.call(partial(self._platform.cache.read, digests[file], fetch))
                (Path(name) / file).write_bytes(content)
            encoder = json.loads((Path(name) / CONFIG_FILE).read_bytes())["config"].get("encoder", "")
            return load_model(Path(name), weights_of(encoder, self._platform, patience))


class Stylist:
    """A thread that answers requests whenever nothing else is to be done."""

    def __init__(self, name: str, platform: Platform, hands: threading.Lock, *, threads: int) -> None:
        """hands: held by whoever works in this process; one piece of work at a time keeps training exact."""
        self._name, self._platform, self._hands, self._threads = name, platform, hands, threads
        self._models = Models(platform)
        self._idle = threading.Event()
        self._idle.set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stylist", daemon=True)
        self._thread.start()

    def rest(self) -> None:
        """Take no more requests: the worker has something to do."""
        self._idle.clear()
        self._platform.bus.say_busy(self._name)

    def resume(self) -> None:
        self._idle.set()

    def close(self) -> None:
        self._closed.set()
        self._idle.set()
        self._thread.join(2 * POLL_S)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        away = False
        while not self._closed.is_set():
            self._idle.wait()
            self._platform.bus.say_idle(self._name)
            try:
                request = self._platform.bus.next_request(timeout_s=POLL_S)
                if request is not None:
                    self._serve(request)
                if not self._idle.is_set():
                    self._platform.bus.say_busy(self._name)  # it may have been said to be idle just after `rest`
            except redis.RedisError as error:
                if not away:
                    log.warning("redis_away", worker=self._name, error=brief(error))
                away = True
                self._closed.wait(POLL_S)
            else:
                away = False

    def _serve(self, request: Mapping[str, Any]) -> None:
        """Answer, unless the worker was given something else in the meantime: then say so at once."""
        if not self._hands.acquire(blocking=False):
            self._answer(request, {"status": 503, "detail": "the warm worker has just begun a job: try again"})
            return
        self._platform.bus.say_busy(self._name)
        try:
            self._answer(request, *self._drawn(request))
        finally:
            self._hands.release()

    def _drawn(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        began_at = time.monotonic()
        max_mpx = self._platform.settings.max_picture_mpx
        try:
            head, picture = draw(request, self._models.get, self._platform.bus, max_mpx=max_mpx)
        except Refused as error:
            return {"status": 422, "detail": str(error), "pointer": error.pointer}, b""
        except ValueError as error:  # the model's own: it cannot be used
            return {"status": 422, "detail": str(error), "pointer": None}, b""
        except Expired as error:
            log.info("stylize_given_up", request=request["id"], reason=str(error))
            return {"status": 503, "detail": str(error)}, b""
        except Exception as error:
            gone = is_away(error) or isinstance(error, (Missing, Corrupt, Damaged))
            log.warning("stylize_failed", request=request["id"], error=brief(error), exc_info=not gone)
            return {"status": 503 if gone else 500, "detail": brief(error)}, b""
        log.info("stylized", request=request["id"], seconds=round(time.monotonic() - began_at, 3), **head)
        return head, picture

    def _answer(self, request: Mapping[str, Any], head: dict[str, Any], data: bytes = b"") -> None:
        self._platform.bus.answer(str(request["id"]), head, data, expire_s=ANSWER_EXPIRES_S)
