"""Estimates of jobs: made at submit where the steps of such a job were counted before, else a moment later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.catalogue import Catalogue, TaskInfo
from orchestrator.code import code_digest
from orchestrator.counting import Busy, Counted, Counting
from orchestrator.estimate import Estimate, PhaseCost, Work, calibrated, cost_key, raw_seconds, work_of
from orchestrator.store import costs
from orchestrator.store.database import Database
from orchestrator.store.jobs import NewJob

REMEMBERED = 1000  # counts


class Estimator:
    """Remembers counts, which never change; speeds and past runs are asked for each time."""

    def __init__(self, db: Database, catalogue: Catalogue) -> None:
        self._db = db
        self._catalogue = catalogue
        self._counting = Counting()
        self._known: dict[str, Counted] = {}

    def close(self) -> None:
        self._counting.close()

    def estimated(self, tx: Session, new: NewJob) -> NewJob:
        """The job with its estimate, where its steps were counted before and its device was measured."""
        made = self.made(tx, new, self.counted(tx, new))
        return new if made is None else replace(new, estimate=costs.as_json(made))

    def count_later(self, news: Sequence[NewJob]) -> None:
        """Count for jobs without an estimate, which the database has by now, and note the estimates."""
        unknown = [new for new in news if new.estimate is None]
        for key in {self._key(new) for new in unknown} - set(self._known):
            alike = [new for new in unknown if self._key(new) == key]
            try:
                self.count(alike[0]).add_done_callback(partial(self._note, alike))
            except Busy:
                return  # they go without

    def count(self, new: NewJob) -> Future[Counted]:
        """Have the steps of such a job counted. Raises Busy."""
        key = self._key(new)
        return self._counting.start(key, self._asked(new), lambda counted: self._keep(key, counted))

    def counted(self, tx: Session, new: NewJob) -> Counted | None:
        """None where nobody has counted the steps of such a job."""
        key = self._key(new)
        if key not in self._known:
            found = costs.counted(tx, key)
            if found is None:
                return None
            self._remember(key, found)
        return self._known[key]

    def work(self, new: NewJob, counted: Counted) -> Work | None:
        """All that is left to do after what the job starts from; None where it could not be counted."""
        info = self._info(new)
        phases = info.phases(new.config, based=_is_based(new))
        done = new.start_from["step"] if new.start_from else 0
        return work_of([PhaseCost(*cost) for cost in counted], phases, done=done)

    def made(self, tx: Session, new: NewJob, counted: Counted | None) -> Estimate | None:
        """None where it was not counted, or no worker has measured such a device."""
        speed = costs.speed(tx, gpu=new.gpus > 0)
        work = None if counted is None else self.work(new, counted)
        if speed is None or work is None:
            return None
        units = new.workers * (new.gpus or new.cpus)
        return calibrated(raw_seconds(work, speed, units), costs.past_runs(tx, new.method, new.task))

    def _keep(self, key: str, counted: Counted) -> None:
        with self._db.write() as tx:
            costs.keep(tx, key, counted)
        self._remember(key, counted)

    def _remember(self, key: str, counted: Counted) -> None:
        while len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known)), None)
        self._known[key] = counted

    def _note(self, news: Sequence[NewJob], counted: Future[Counted]) -> None:
        if counted.cancelled() or counted.exception() is not None:
            return  # they go without
        with self._db.write() as tx:
            for new in news:
                if (made := self.made(tx, new, counted.result())) is not None:
                    costs.keep_estimate(tx, new.id, made)

    def _info(self, new: NewJob) -> TaskInfo:
        info = self._catalogue.task(new.method, new.task)
        assert info is not None, "it was checked at submit"
        return info

    def _key(self, new: NewJob) -> str:
        return cost_key(code_digest(), f"{new.method}/{new.task}", new.config, based=_is_based(new))

    def _asked(self, new: NewJob) -> Mapping[str, Any]:
        """What `stylemodels cost` wants to know. What a base model fixes stands in the job's own config."""
        info = self._info(new)
        base: Mapping[str, Any] | None = None
        if _is_based(new) and info.base_model is not None:
            of_base = self._catalogue.task(*info.base_model.split("/"))
            known = of_base.config["properties"] if of_base is not None else {}
            fixed = [name for name, prop in info.config["properties"].items() if prop.get("x-from-base")]
            base = {name: new.config[name] for name in fixed if name in known}
        return {"task": f"{new.method}/{new.task}", "config": dict(new.config), "base_config": base}


def _is_based(new: NewJob) -> bool:
    return new.base_model is not None or new.base_job is not None
