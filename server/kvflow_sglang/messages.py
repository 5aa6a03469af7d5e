"""What the HTTP process and the schedulers say to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import msgspec

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.receipts import MAX_PAGE, Receipts
from kvflow_agents.tenants import scoped_name
from kvflow_sglang.compat.http_process import BaseReq

if TYPE_CHECKING:
    from kvflow_sglang.tenancy import Tenants
    from kvflow_sglang.view import View


class ForecastRequest(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """A forecast that came without a request; the fields of a hint."""

    workflow: str
    seq: int
    steps: dict[str, Optional[int]]  # noqa: UP045  msgspec resolves it at run time
    due_ms: dict[str, int]
    chance: dict[str, int]
    loras: dict[str, str]
    done: bool = False
    changes: bool = False
    app: Optional[str] = None  # noqa: UP045
    at_ms: Optional[int] = None  # noqa: UP045
    tenant: Optional[str] = None  # noqa: UP045


class ForecastNotice(ForecastRequest, kw_only=True):  # type: ignore[call-arg]
    """The hint of a request that another scheduler has got; there is no answer."""

    agent: Optional[str] = None  # noqa: UP045


class ForecastAnswer(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """What became of the forecast: accepted, stale or ended."""

    outcome: str


class StatusRequest(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """Asks for the cache's status."""


class StatusAnswer(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """The cache's counts by name."""

    counts: dict[str, int]


class ReceiptsRequest(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """Asks for the receipts of one workflow, or for a list of workflows; a page of either."""

    workflow: Optional[str] = None  # noqa: UP045
    offset: int = 0
    limit: int = MAX_PAGE
    tenant: Optional[str] = None  # noqa: UP045


class ReceiptsAnswer(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """The receipts as JSON; None for a workflow that is not known."""

    json: Optional[str] = None  # noqa: UP045


class ViewRequest(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """Asks for what the page shows: a page of workflows, and one of a workflow's agents."""

    workflow: Optional[str] = None  # noqa: UP045
    offset: int = 0
    limit: int = MAX_PAGE
    agents_offset: int = 0
    agents_limit: int = MAX_PAGE
    tenant: Optional[str] = None  # noqa: UP045
    of_all: bool = False


class ViewAnswer(BaseReq, kw_only=True):  # type: ignore[call-arg]
    """The view as JSON."""

    json: str


ANSWERS: dict[str, type] = {
    "kvflow_forecast": ForecastAnswer,
    "kvflow_status": StatusAnswer,
    "kvflow_receipts": ReceiptsAnswer,
    "kvflow_view": ViewAnswer,
}
"""What comes back, by the names by which schedulers are asked."""
ALL = (
    *(ForecastRequest, ForecastNotice, StatusRequest, ReceiptsRequest, ViewRequest),
    *ANSWERS.values(),
)


def to_json(found: object) -> str:
    """JSON, in a ninth of the standard library's time: the scheduler waits for it."""
    return msgspec.json.encode(found).decode()


def answer_receipts(tenants: Tenants, request: Any) -> Any:
    """A page of a tenant's receipts, as it was asked for."""
    known = tenants.find(request.tenant)
    receipts = Receipts() if known is None else known.receipts
    page = {"offset": request.offset, "limit": request.limit}
    if request.workflow is None:
        return ReceiptsAnswer(json=to_json(receipts.workflows(**page)))
    if known is None:
        return ReceiptsAnswer()
    expected = known.foresight.expected(scoped_name(request.tenant, request.workflow))
    found = receipts.workflow(request.workflow, expected, **page)
    return ReceiptsAnswer(json=None if found is None else to_json(found))


def answer_view(view: View, request: Any) -> Any:
    """What the page shows, as it was asked for."""
    found = view.page(
        request.workflow,
        offset=request.offset,
        limit=request.limit,
        agents_offset=request.agents_offset,
        agents_limit=request.agents_limit,
        tenant=request.tenant,
        of_all=request.of_all,
    )
    return ViewAnswer(json=to_json(found))


def to_message(hint: Hint) -> Any:
    """A hint as a message."""
    return ForecastRequest(**_fields(hint))


def to_notice(hint: Hint) -> Any:
    """A request's hint as a message to the schedulers that do not get the request."""
    return ForecastNotice(agent=hint.agent, **_fields(hint))


def _fields(hint: Hint) -> dict[str, Any]:
    forecast = hint.forecast
    return dict(
        workflow=hint.workflow,
        app=hint.app,
        seq=forecast.seq,
        steps=dict(forecast.steps),
        due_ms=dict(forecast.due_ms),
        chance=dict(forecast.chance),
        loras=dict(forecast.loras),
        done=forecast.done,
        changes=forecast.changes,
        at_ms=hint.at_ms,
        tenant=hint.tenant,
    )


def to_hint(message: Any) -> Hint:
    """The hint in a message."""
    forecast = Forecast(
        message.seq,
        message.steps,
        done=message.done,
        changes=message.changes,
        due_ms=message.due_ms,
        chance=message.chance,
        loras=message.loras,
    )
    return Hint(
        message.workflow, forecast, app=message.app, at_ms=message.at_ms, tenant=message.tenant
    )


def noticed_hint(message: Any) -> Hint:
    """The hint in a notice: it says who calls."""
    return to_hint(message)._replace(agent=message.agent)
