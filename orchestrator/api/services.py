"""What routes work with: one object per process, made at start, given to a route as `services: Here`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from orchestrator.api.estimator import Estimator
from orchestrator.api.news import News
from orchestrator.api.rates import Rates
from orchestrator.bus import Bus
from orchestrator.catalogue import Catalogue
from orchestrator.objects import Objects
from orchestrator.settings import Settings
from orchestrator.store.access import Access
from orchestrator.store.database import Database
from orchestrator.store.waiting import RecentOutlook

MOST_DRAWING = 8  # stylisations waited for at a time: each holds one of the threads that answer everything else


@dataclass(frozen=True)
class Services:
    settings: Settings
    db: Database
    objects: Objects
    bus: Bus
    catalogue: Catalogue
    access: Access  # who holds which key
    news: News  # wakes streams of events
    estimator: Estimator
    rates: Rates
    outlook: RecentOutlook = field(default_factory=RecentOutlook)  # for answers to submits
    drawing: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MOST_DRAWING))


async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Here = Annotated[Services, Depends(services_of)]
