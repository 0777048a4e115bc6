"""What can go wrong between a client and its service.

Error
├── NotConfigured   no address or key is known: set them, or start a stack
├── Unreachable     nobody answered, or nobody who could, for as long as the client tries
├── ApiError        the service refused: a problem document
├── Rejected        a dataset version that its ingest did not take
└── JobFailed       a job that was waited for ended otherwise than in `succeeded`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from stylefoundry.types import Dataset, Job


class Error(Exception):
    """Everything that the client raises beside ValueError for arguments of the caller's."""


class NotConfigured(Error):
    """No address or no key: the message says how to give them."""


class Unreachable(Error):
    """The service, or its object store, did not answer."""


class FieldProblem(NamedTuple):
    """One bad field of a request."""

    pointer: str  # JSON pointer: "/config/lr"
    detail: str


class ApiError(Error):
    """A problem document (RFC 9457): what was wrong with a request.

    status: HTTP status. errors: one entry per bad field. retry_after_s: seconds, where the service said when to come
    back (429 and 503).
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: tuple[FieldProblem, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s
        super().__init__(detail or title)

    @classmethod
    def of(cls, status: int, document: Any, retry_after_s: float | None) -> ApiError:
        """From an answer's body; one that is no problem document (a proxy's page) leaves only the status."""
        problem = document if isinstance(document, dict) else {}
        title = str(problem.get("title") or f"HTTP {status}")
        errors = tuple(FieldProblem(str(e.get("pointer", "")), str(e["detail"])) for e in problem.get("errors") or ())
        return cls(status, title, str(problem.get("detail") or ""), errors, retry_after_s)


class Rejected(Error):
    """A dataset version has no usable picture, or a file of it never arrived as announced."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        super().__init__(f"{dataset.name}@{dataset.version} was rejected: {dataset.error}")


class JobFailed(Error):
    """A job ended in `failed`, `cancelled` or `expired`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        reason = f": {job.error.message}" if job.error is not None else ""
        super().__init__(f"{job.id} ({job.name}) {job.status}{reason}")
