"""What the page at `/kvflow/` shows: agents, their KV, the pool and the optimum, as one answer."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

from kvflow_agents.call_receipt import Sums
from kvflow_agents.claims import Claim
from kvflow_agents.eviction import Standing
from kvflow_agents.expectations import Expectations
from kvflow_agents.foresight import Outcome
from kvflow_agents.hints import Hint
from kvflow_agents.shadow import Shadow, Shares, checksums
from kvflow_agents.tenants import Tenant, own_name, scoped, scoped_name, tenant_of
from kvflow_agents.transitions import Transitions
from kvflow_sglang.compat.scheduler import cached_tokens
from kvflow_sglang.tree import Node

MAX_AGENTS = 300
"""The most agents of one workflow in one answer."""
# Of one answer; together they bound its cost.
MOST_NODES = 1000
MOST_EDGES = 1000
MOST_OWNERS = 8
MOST_AT_WORK = 64


class View:
    """Looks at a cache for somebody who watches it, and for its guard."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._transitions = Transitions()
        self._shadow: Shadow | None = None

    def cache_emptied(self) -> None:
        """Begin the shadow anew, from as empty a cache."""
        self._shadow = None

    def heard(self, hint: Hint, outcome: Outcome) -> None:
        """A hint has come, with a request or without."""
        if outcome != "accepted":
            return
        theirs = scoped(hint)
        if hint.forecast.done:
            self._transitions.ended(theirs.workflow)
        elif hint.agent is not None:
            planned = self._planned(hint)
            self._transitions.called(theirs.workflow, theirs.app, hint.agent, planned)

    def computed(self, req: Any, tokens_before: int) -> Shares | None:
        """A request's prompt was computed, or a chunk of it from `tokens_before` on.

        What LRU would have found of it; None before all of it is computed.
        """
        page_size = self._cache.page_size
        whole_pages = len(req.origin_input_ids) // page_size * page_size
        if not tokens_before < whole_pages <= req.kv.cache_inserted_len:
            return None
        shadow = self._shadow or self._make_shadow()
        is_apart = req.extra_key is not None or req.cache_salt is not None
        namespace = (req.extra_key, req.cache_salt) if is_apart else None
        blocks = checksums(req.origin_input_ids, shadow.block_tokens, namespace)
        findable_tokens = (len(req.origin_input_ids) - 1) // page_size * page_size
        return shadow.see(blocks, sum(cached_tokens(req)), findable_tokens)

    def status(self) -> dict[str, int]:
        """The shadow's sums, for `GET /kvflow/status`."""
        if self._shadow is None:
            return {}
        return {f"shadow_{name}": count for name, count in self._shadow.recent()._asdict().items()}

    def page(
        self,
        workflow: str | None,
        *,
        offset: int,
        limit: int,
        agents_offset: int,
        agents_limit: int,
        tenant: Tenant = None,
        of_all: bool = False,
    ) -> dict[str, Any]:
        """The pool, the counters, a page of workflows and one of a workflow's agents.

        The names are those of one tenant; `of_all`: whoever asks may see everybody's, and then
        names a tenant only to choose among workflows of one name.
        """
        self._cache.tree_core.count_holdings(MOST_NODES)
        return {
            "pool": self._pool(tenant, of_all),
            "counters": self._cache.status(),
            "optimum": self._optimum(),
            "workflows": self._workflows(tenant, of_all, offset, limit),
            "workflow": self._workflow(
                tenant, workflow, agents_offset, min(agents_limit, MAX_AGENTS)
            ),
        }

    def _workflows(self, tenant: Tenant, of_all: bool, offset: int, limit: int) -> dict[str, Any]:
        """One tenant's, or those of all tenants one after another, the tenant heard last first."""
        rows: list[dict[str, Any]] = []
        total, skip = 0, offset
        for name, known in self._cache.tenants.items():
            if not of_all and name != tenant:
                continue
            found = known.receipts.workflows(offset=skip, limit=max(limit - len(rows), 0))
            for row in found["workflows"]:
                held = self._cache.tree_core.occupancy.of(scoped_name(name, row["workflow"]))
                rows.append(row | {"tenant": name, "held": held._asdict()})
            total += found["total"]
            skip = max(skip - found["total"], 0)
        return {"total": total, "workflows": rows}

    def _planned(self, hint: Hint) -> set[str]:
        foresight = self._cache.tenants.of(hint.tenant).foresight
        return set(islice(foresight.expected(scoped(hint).workflow).at(0), MOST_AT_WORK))

    def _make_shadow(self) -> Shadow:
        # The host tier is written through: it holds once more what the device holds.
        capacity = max(_device_tokens(self._cache), _host_tokens(self._cache)[0])
        self._shadow = Shadow.of_pool(capacity)
        return self._shadow

    def _optimum(self) -> dict[str, Any] | None:
        if self._shadow is None:
            return None
        shadow, shares = self._shadow, self._shadow.recent()
        sampling = {"rate": shadow.rate, "block_tokens": shadow.block_tokens}
        return sampling | shares._asdict() | {"optimum_at_most": shadow.most_found(shares)}

    def _pool(self, tenant: Tenant, of_all: bool) -> dict[str, Any]:
        cache = self._cache
        occupancy = cache.tree_core.occupancy
        standings = occupancy.by_standing()
        host_tokens, host_free_tokens = _host_tokens(cache)
        sizes = {
            "device": (
                _device_tokens(cache),
                cache.token_to_kv_pool_allocator.available_size(),
            ),
            "host": (host_tokens, host_free_tokens),
        }
        owners = [
            {"workflow": own_name(name), "tenant": tenant_of(name), **tokens._asdict()}
            for name, tokens in occupancy.largest_owners(
                MOST_OWNERS, lambda name: of_all or tenant_of(name) == tenant
            )
        ]
        prefetcher = cache.prefetcher
        return {
            **{
                tier: {
                    "tokens": tokens,
                    "free": free,
                    **{each.name.lower(): getattr(standings[each], tier) for each in Standing},
                }
                for tier, (tokens, free) in sizes.items()
            },
            "loading": 0 if prefetcher is None else prefetcher.tokens_under_way,
            "owners": owners,
            "shared": occupancy.of(None)._asdict(),
            "uncounted_nodes": occupancy.uncounted,
        }

    def _workflow(
        self, tenant: Tenant, name: str | None, offset: int, limit: int
    ) -> dict[str, Any] | None:
        known = self._cache.tenants.find(tenant)
        about = None if name is None or known is None else known.receipts.about(name)
        if name is None or about is None:
            return None
        theirs = scoped_name(tenant, name)
        app = None if about.app is None else scoped_name(tenant, about.app)
        expected = known.foresight.expected(theirs)
        others = [agent for agent in about.agents if agent not in expected.steps]
        shown = list(islice(chain(expected.in_order(), others), offset, offset + limit))
        rows = [
            _told(expected, agent)
            | {"prefix": self._prefix(known.foresight.claim_of(theirs, agent))}
            | _calls(known.receipts.sums(name, agent))
            for agent in shown
        ]
        return {
            "workflow": name,
            "tenant": tenant,
            "app": about.app,
            "done": about.done,
            "total": len(expected.steps) + len(others),
            "agents": rows,
            "edges": self._transitions.edges(theirs, app, set(shown), most=MOST_EDGES),
        }

    def _prefix(self, claim: Claim[Node] | None) -> dict[str, int] | None:
        """Where the tokens of an agent's prefix lie; each token counts once."""
        if claim is None:
            return None
        start, stop = self._cache.tree_core.missing(claim)
        prefetcher = self._cache.prefetcher
        loading = 0
        if prefetcher is not None and stop > start:
            loading = min(prefetcher.tokens_to(claim.node), stop - start)
        held = {"device": start, "host": stop - start - loading, "loading": loading}
        return held | {"gone": len(claim.key) - stop}


def _told(expected: Expectations, agent: str) -> dict[str, Any]:
    return {
        "agent": agent,
        "steps": expected.steps.get(agent),
        "due_ms": expected.due_ms.get(agent),
        "chance": expected.chance.get(agent),
    }


def _calls(sums: Sums) -> dict[str, int]:
    return {
        "calls": sums.calls,
        "prompt_tokens": sums.prompt_tokens,
        "device_tokens": sums.device_tokens,
        "host_tokens": sums.host_tokens,
        "lost_tokens": sums.lost_tokens,
        "prefetched_tokens": sums.prefetched_tokens,
        "late_tokens": sums.late_tokens,
        "wasted_tokens": sums.wasted_tokens,
        "waits": sums.waits,
        "forecast_right": sums.forecast_right,
        "forecast_wrong": sums.forecast_wrong,
    }


def _device_tokens(cache: Any) -> int:
    tokens: int = cache.token_to_kv_pool_allocator.size
    return tokens


def _host_tokens(cache: Any) -> tuple[int, int]:
    """How many the host tier has room for, and has free; none without one."""
    if cache.cache_controller is None:
        return 0, 0
    pool = cache.cache_controller.mem_pool_host
    return pool.size, pool.available_size()
