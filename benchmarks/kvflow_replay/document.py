"""A replay as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kvflow_replay.answers import LiveReplay, rows
from kvflow_replay.findings import Findings
from kvflow_replay.replay import Loss, Outcome, Replay, Sums, baseline, losses
from kvflow_replay.timed import TimedReplay

SCHEMA = 1


def document(done: Replay, findings: Findings) -> dict[str, Any]:
    """Everything that the table shows, and each window and agent besides."""
    sizes = done.sizes
    return {
        "schema": SCHEMA,
        "trace": findings.to_dict(),
        "calls": done.calls,
        "calls_with_forecast": done.hinted,
        "calls_too_large_for_the_pool": done.too_large,
        "pool_tokens": sizes.device_blocks * sizes.block_tokens,
        "host_tokens": sizes.host_blocks * sizes.block_tokens,
        "block_tokens": sizes.block_tokens,
        "window_ends_s": [end_s - done.begin_s for end_s in done.window_ends_s],
        "policies": [_policy(done, outcome) for outcome in done.outcomes],
        "lru_did_better": [_loss(loss) for loss in losses(done)],
    }


def live_document(live: LiveReplay, findings: Findings) -> dict[str, Any]:
    """What a server answered, in all and by agent."""
    return {
        "schema": SCHEMA,
        "trace": findings.to_dict(),
        "calls": live.calls,
        "calls_with_forecast": live.hinted,
        "failed": live.failed,
        "errors": live.errors,
        "most_late_s": live.late_s,
        "rows": [{**asdict(row), "hit_rate": row.hit_rate} for row in rows(live)],
    }


def timed_document(done: TimedReplay, findings: Findings) -> dict[str, Any]:
    """What each policy cost on a machine."""
    return {
        "schema": SCHEMA,
        "trace": findings.to_dict(),
        "machine": asdict(done.machine),
        "calls": done.calls,
        "calls_with_forecast": done.hinted,
        "calls_too_large_for_the_pool": done.too_large,
        "pool_tokens": done.sizes.pool_tokens,
        "host_tokens": done.sizes.host_tokens,
        "speed": done.speed,
        "trace_s": done.trace_s,
        "policies": done.rows,
    }


def ratio_to(done: Replay, outcome: Outcome, name: str) -> float | None:
    """A policy's prefill work, to that of `lru` or the `optimum` in the same pools."""
    base = baseline(done, outcome, name)
    if base is None:
        return None
    return outcome.total.computed_tokens / base.total.computed_tokens


def _policy(done: Replay, outcome: Outcome) -> dict[str, Any]:
    return {
        "policy": outcome.policy,
        "has_host_tier": outcome.has_host_tier,
        **_sums(outcome.total),
        "computed_to_lru": ratio_to(done, outcome, "lru"),
        "computed_to_optimum": ratio_to(done, outcome, "optimum"),
        "windows": [_sums(sums) for sums in outcome.windows],
        "agents": [
            {"app": app or None, "agent": agent, **_sums(sums)}
            for (app, agent), sums in outcome.agents.items()
        ],
    }


def _sums(sums: Sums) -> dict[str, Any]:
    cached_tokens = sums.device_tokens + sums.host_tokens
    return {**sums._asdict(), "hit_rate": cached_tokens / max(sums.prompt_tokens, 1)}


def _loss(loss: Loss) -> dict[str, Any]:
    return {**asdict(loss), "ratio": loss.ratio}
