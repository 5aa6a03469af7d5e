"""Fuzz what strangers can reach: hints on the wire, the endpoints, and the tree behind them.

    .venv-server/bin/python benchmarks/fuzz.py --wire 880000 --tree 100000 --endpoints 20000

Wire: random and mutated hints, envelopes, session headers and `nvext.agent_hints` go through all
that the HTTP process does to a request, into a cache. Their sequence numbers mostly grow, so that
most well-formed ones are accepted. Endpoints: schemathesis sends what the OpenAPI document of
`/kvflow/*` allows, and what it does not, to the routes over a cache. Tree: random requests,
forecasts, evictions and loads of several tenants, against a model of what may be found, and what
must be: all that was just computed, if nothing was loaded ahead since. Deterministic for a seed.
Needs the environment of the server.

Calls that a scheduler would make are timed, collections of garbage apart: `stalls` of them took
longer than 100 ms by the wall clock, which counts whatever else runs on the machine.
"""

from __future__ import annotations

import gc
import json
import random
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import lcm
from pathlib import Path
from threading import get_ident
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar

import typer

from kvflow_agents.envelope import encode_envelope
from kvflow_agents.errors import HintError
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import (
    CONVERSATION_FIELD,
    RECEIPT_FIELD,
    SCOPE_FIELD,
    SERVER_FIELDS,
    SESSION_FIELD,
    TENANT_FIELD,
    Hint,
    decode_body,
    decode_request,
    encode_body,
    encode_request,
)
from kvflow_agents.prefetch import PIECE_TOKENS
from kvflow_sglang import plugin
from kvflow_sglang.doorman import Doorman
from kvflow_sglang.identity import Identity
from kvflow_sglang.inferred import SESSION_HEADERS
from kvflow_sglang.interpreter import Interpreter
from kvflow_sglang.receipt_header import Wanted
from kvflow_sglang.settings import Settings
from kvflow_sglang.standalone import StandaloneCache

POOL_TOKENS = 600
CHECK_EVERY = 64
# A scheduler that is held so long lets its requests wait.
STALL_MS = 100.0
# Then another tree, with another page size, with a host tier or without.
TREE_CASES = 4000
KEY, ADMIN_KEY = "fuzz", "fuzz-admin"
STRANGE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, 0.5, float("nan"), float("inf")),
    *("", "a", "\x00", "\ud800", "\u2028", "w" * 129, "ü" * 200, "../..", "<script>", "a/b"),
    *([], [1], [[1]], {}, {"a": 1}, {"a": {"b": {"c": 1}}}, {"": 1}, {"\x00": 0}),
)

T = TypeVar("T")


class WorkClock:
    """The wall clock and the thread's own time; both stand still while garbage is collected.

    This process has a heap that no scheduler has: how long its collections take is told apart.
    """

    def __init__(self) -> None:
        self.longest_collection_ms = 0.0
        self._began_ms = (0.0, 0.0)
        self._collected_ms = 0.0
        self._collected_cpu_ms: defaultdict[int, float] = defaultdict(float)  # by thread
        gc.callbacks.append(self._note)

    def read_ms(self) -> tuple[float, float]:
        """Both of them now."""
        wall_ms, cpu_ms = _clocks_ms()
        return wall_ms - self._collected_ms, cpu_ms - self._collected_cpu_ms[get_ident()]

    def _note(self, phase: str, info: dict[str, int]) -> None:
        """A collection starts or stops; meanwhile no other thread runs."""
        now_ms = _clocks_ms()
        if phase == "start":
            self._began_ms = now_ms
            return
        wall_ms, cpu_ms = (now - began for now, began in zip(now_ms, self._began_ms, strict=True))
        self._collected_ms += wall_ms
        self._collected_cpu_ms[get_ident()] += cpu_ms
        self.longest_collection_ms = max(self.longest_collection_ms, wall_ms)


def _clocks_ms() -> tuple[float, float]:
    return 1000 * time.perf_counter(), 1000 * time.thread_time()


CLOCK = WorkClock()


@dataclass
class Findings:
    """What a part of the fuzzing has come to."""

    cases: int = 0
    crashes: list[str] = field(default_factory=list)
    broken_invariants: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_call_ms: float = 0.0
    """Of the calls that run in a scheduler's thread, by the wall clock: others run here too."""
    longest_call_cpu_ms: float = 0.0
    """The same, of the thread's own time."""
    longest_call: str = ""
    stalls: int = 0
    """Calls that took longer than `STALL_MS` by the wall clock."""

    def timed(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what a scheduler would call, and note how long that took."""
        began_ms, began_cpu_ms = CLOCK.read_ms()
        try:
            return call(*args, **kwargs)
        finally:
            ended_ms, ended_cpu_ms = CLOCK.read_ms()
            name = f"{getattr(call, '__name__', call)}, case {self.cases}"
            self._note(name, ended_ms - began_ms, ended_cpu_ms - began_cpu_ms)

    def _note(self, name: str, taken_ms: float, cpu_ms: float) -> None:
        self.stalls += taken_ms > STALL_MS
        self.longest_call_ms = max(self.longest_call_ms, taken_ms)
        if cpu_ms > self.longest_call_cpu_ms:
            self.longest_call_cpu_ms, self.longest_call = cpu_ms, name

    def guard(self, what: str, call: Callable[[], None]) -> None:
        """One case: what it raises is a crash, an assertion a broken invariant."""
        self.cases += 1
        try:
            call()
        except AssertionError as error:
            self.broken_invariants.append(f"{what}: {error}"[:400])
        except Exception as error:  # whatever it is, it is what we look for
            self.crashes.append(f"{what}: {error!r}"[:400])

    def summary(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {
            "crashes": len(self.crashes),
            "broken_invariants": len(self.broken_invariants),
            "examples": [*self.crashes, *self.broken_invariants][:10],
            "longest_call_ms": round(self.longest_call_ms, 2),
            "longest_call_cpu_ms": round(self.longest_call_cpu_ms, 2),
            "outcomes": dict(sorted(self.outcomes.items())),
        }


# ---- the wire ----


def some_hint(chance: random.Random, now: int) -> Hint:
    """A well-formed hint, as a rule newer than those before it."""
    agents = [f"a{chance.randrange(12)}" for _ in range(chance.randrange(8))]
    steps = {agent: chance.choice((None, 0, 1, 5, 10**6)) for agent in agents}
    told = {agent: chance.randrange(10**6) for agent in agents if chance.random() < 0.5}
    forecast = Forecast(
        now if chance.random() < 0.9 else chance.randrange(now + 1),
        steps,
        done=chance.random() < 0.1,
        changes=chance.random() < 0.2,
        due_ms=told,
        chance={agent: chance.randrange(101) for agent in told},
        loras=dict.fromkeys(told, "style"),
    )
    caller = chance.choice([None, *agents])
    return Hint(f"w{chance.randrange(50)}", forecast, caller, chance.choice((None, "x", "y")))


def mutated(value: Any, chance: random.Random) -> Any:
    """A value with something in it replaced by what is strange there, dropped or added."""
    if not isinstance(value, dict) or not value or chance.random() < 0.15:
        return chance.choice(STRANGE)
    name = chance.choice(list(value))
    changed = dict(value)
    draw = chance.random()
    if draw < 0.6:
        changed[name] = mutated(value[name], chance)
    elif draw < 0.8:
        del changed[name]
    else:
        changed[chance.choice(("", "kvflow_tenant", "tenant", "at_ms", "é", "\x00"))] = (
            chance.choice(STRANGE)
        )
    return changed


def fuzz_wire(cases: int, seed: int) -> Findings:
    """Hints through the door, and what passes into a cache."""
    found, chance = Findings(), random.Random(seed)
    cache = StandaloneCache("kvflow", pool_tokens=POOL_TOKENS).cache
    doors = [Door(nesting) for nesting in (True, False)]
    for number in range(cases):
        door, sent = chance.choice(doors), _some_message(chance, number)

        def case(door: Door = door, sent: Sent = sent, number: int = number) -> None:
            if sent.is_body:
                heard = _through_body(door.doorman, sent.custom_params, found)
                if heard is not None:
                    found.outcomes[found.timed(cache.hear, heard)] += 1
                return
            request = door.admitted(sent, found)
            if request is None or not isinstance(_custom_params(request), dict | None):
                return
            arrived = _arrived(request, str(number))
            found.timed(cache.arrived, arrived)
            found.timed(cache.mailbox.hear_to, arrived.rid)
            if cache.inferred is not None:
                found.timed(cache.inferred.catch_up, [arrived.rid])

        found.guard(f"wire {number} of seed {seed}", case)
        if number % (CHECK_EVERY * 16) == 0:
            found.guard(f"wire tables at {number}", lambda: _check(cache))
            found.timed(cache.begin_pass)
    for name in ("accepted", "stale", "ended"):
        found.outcomes[f"on_requests_{name}"] = cache.outcomes[name]
    return found


@dataclass(frozen=True)
class Sent:
    """What a client sends: a forecast of its own, or all that may stand in a request."""

    is_body: bool
    custom_params: Any
    envelope: Any
    nvext: Any
    headers: dict[str, str]
    salt: Any


def _some_message(chance: random.Random, number: int) -> Sent:
    hint, is_body = some_hint(chance, number), chance.random() < 0.3
    in_envelope = not is_body and chance.random() < 0.3
    params: Any = encode_body(hint) if is_body else {} if in_envelope else encode_request(hint)
    envelope: Any = encode_envelope(hint) if in_envelope else None
    nvext: Any = None
    if chance.random() < 0.3:
        said = {"priority": chance.choice((0, 7, -3)), "speculative_prefill": True, "osl": 9}
        nvext = {"agent_hints": {name: said[name] for name in said if chance.random() < 0.5}}
    headers = {name: f"s{chance.randrange(9)}" for name in _HEADERS if chance.random() < 0.1}
    for _ in range(chance.randrange(4)):
        params = mutated(params, chance)
        envelope = None if envelope is None else mutated(envelope, chance)
        nvext = None if nvext is None else mutated(nvext, chance)
    if isinstance(params, dict) and chance.random() < 0.2:
        params = {**params, chance.choice(SERVER_FIELDS): chance.choice(STRANGE)}
    return Sent(is_body, params, envelope, nvext, headers, chance.choice((None, None, "one", "")))


class Door:
    """All that the HTTP process does to a request before it goes on to a scheduler."""

    def __init__(self, allows_nesting: bool) -> None:
        identity = Identity(Settings())
        self.doorman = Doorman(allows_nesting=allows_nesting, identity=identity)
        self._reader = Interpreter(self.doorman.refused, settings=Settings(), priority_sign=1)

    def admitted(self, sent: Sent, found: Findings) -> Any:
        """The request as it goes on; None if it is refused."""
        params = {"custom_params": sent.custom_params}
        request = SimpleNamespace(
            sampling_params=params, cache_salt=sent.salt, kv_hints=None, priority=None
        )
        body = {"kv_hints": sent.envelope, "nvext": sent.nvext}
        http = SimpleNamespace(_json=body, headers=sent.headers, scope={})
        try:
            plugin._admit(self.doorman, self._reader, None, Wanted(), None, request, http)
        except ValueError:
            found.outcomes["refused_request"] += 1
            return None
        assert self._reader._safely.errors == 0, "the interpreter has failed"
        passed = _custom_params(request)
        if isinstance(passed, dict):
            self._check(passed, request, sent, found)
        return request

    def _check(self, passed: dict[str, Any], request: Any, sent: Sent, found: Findings) -> None:
        hint = decode_request(passed)
        expected = self.doorman.identity.of_request(request, {})
        assert passed.get(TENANT_FIELD) == expected, "a tenant was forged"
        assert hint is None or hint.tenant == expected, "a hint has another tenant than its request"
        assert RECEIPT_FIELD not in passed and SCOPE_FIELD not in passed, "a field was forged"
        told = set(sent.headers.values())
        for name in (SESSION_FIELD, CONVERSATION_FIELD):
            assert passed.get(name) in {None, *told}, "a session was forged"
        found.outcomes["passed_hint" if hint else "passed_without"] += 1


_HEADERS = (*SESSION_HEADERS, "x-claude-code-agent-id", "x-dynamo-session-final")


def _custom_params(request: Any) -> Any:
    return (request.sampling_params or {}).get("custom_params")


def _arrived(request: Any, request_id: str) -> Any:
    """As a scheduler gets it."""
    return SimpleNamespace(
        rid=request_id,
        sampling_params=SimpleNamespace(custom_params=_custom_params(request)),
        lora_id=None,
        session_params=None,
        session_id=None,
        extra_key=None,
        cache_salt=request.cache_salt,
        input_ids=array("q", (int(request_id) % 7, *range(40))),
    )


def _through_body(door: Doorman, sent: Any, found: Findings) -> Hint | None:
    try:
        text = json.dumps(sent)
        hint = decode_body(json.loads(text))
    except (HintError, ValueError) as error:  # more digits than Python writes, too
        found.outcomes[f"refused_{getattr(error, 'reason', 'json')}"] += 1
        return None
    assert decode_body(encode_body(hint)) == hint._replace(tenant=None), "a body changes"
    return door.stamped(hint)


def _check(cache: Any) -> None:
    cache.tree_core.ledger.check()
    for known in cache.tenants:
        known.foresight.check()


# ---- the tree ----


class Model:
    """What may be found: no more than what somebody has had computed since the last flush."""

    def __init__(self) -> None:
        self._seen: dict[str | None, set[bytes]] = {}

    def add(self, salt: str | None, tokens: array[int]) -> None:
        """A sequence was computed."""
        seen = self._seen.setdefault(salt, set())
        seen.update(tokens[:end].tobytes() for end in range(1, len(tokens) + 1))

    def most(self, salt: str | None, tokens: array[int]) -> int:
        """How much of a sequence can be cached at most."""
        seen = self._seen.get(salt, set())
        ends = range(len(tokens), 0, -1)
        return next((end for end in ends if tokens[:end].tobytes() in seen), 0)

    def clear(self) -> None:
        """The cache was emptied."""
        self._seen.clear()


def fuzz_tree(cases: int, seed: int) -> Findings:
    """Random requests, splits, evictions, loads and forecasts; KV is looked at by every request."""
    found, done = Findings(), 0
    while done < cases:
        batch = min(cases - done, TREE_CASES)
        _fuzz_one_tree(found, batch, seed + done, has_host=done // TREE_CASES % 2 == 1)
        done += batch
    return found


def _fuzz_one_tree(found: Findings, cases: int, seed: int, *, has_host: bool) -> None:
    chance, model = random.Random(seed), Model()
    page_size = chance.choice((1, 1, 4))
    cache = StandaloneCache(
        "kvflow",
        pool_tokens=POOL_TOKENS,
        page_size=page_size,
        host_ratio=3.0 if has_host else None,
    )

    def tokens(most: int) -> array[int]:
        # Few beginnings, so that prompts share, split and extend each other.
        start = chance.randrange(6)
        length = chance.randrange(1, most)
        cut = chance.randrange(length + 1)
        return array("q", (start if at < cut else chance.randrange(3) for at in range(length)))

    def hint(tenant: str | None) -> Hint:
        told = some_hint(chance, found.cases)
        return told._replace(tenant=tenant, at_ms=chance.randrange(10**6))

    def case() -> None:
        draw, salt = chance.random(), chance.choice((None, None, "one", "two"))
        tenant = salt
        if draw < 0.55:
            prompt, answer = tokens(90), tokens(12)
            told = hint(tenant) if chance.random() < 0.7 else None
            most, loaded = model.most(salt, prompt), _loaded_tokens(cache)
            cached = found.timed(
                cache.run, prompt, answer, hint=told, extra_key=salt, tenant=tenant
            )
            model.add(salt, prompt + answer)
            assert cached <= most, f"{cached} tokens were found of {most}"
            if _loaded_tokens(cache) == loaded:
                _assert_found_again(cache, prompt + answer, salt, page_size)
            found.outcomes["hits" if cached else "misses"] += 1
        elif draw < 0.75:
            found.outcomes[found.timed(cache.cache.hear, hint(tenant))] += 1
        elif draw < 0.85:
            prompt = tokens(90)
            match = found.timed(cache.match, prompt, salt)
            total = match.device_prefix_len + match.host_hit_length
            assert total <= model.most(salt, prompt), "more was matched than was ever computed"
            found.outcomes["matches"] += 1
        elif draw < 0.93:
            wanted = chance.randrange(200)
            found.timed(cache.evict, wanted)
            found.outcomes["evictions"] += 1
        elif draw < 0.999:
            found.timed(cache.one_pass)
            found.outcomes["passes"] += 1
        else:
            found.timed(cache.cache.reset)
            cache.allocator.clear()
            model.clear()
            found.outcomes["flushes"] += 1
        if found.cases % CHECK_EVERY == 0:
            _check(cache.cache)
            cache.cache.tree_core.occupancy.check()
            cache.cache.sanity_check()

    for number in range(cases):
        found.guard(f"tree {number} of seed {seed}", case)
        if found.crashes or found.broken_invariants:
            return  # what follows in the same tree would tell nothing new


def _loaded_tokens(cache: StandaloneCache) -> int:
    """How much was ever loaded ahead; what is expected may take the room of what is not."""
    prefetcher = cache.cache.prefetcher
    if prefetcher is None:
        return 0
    return int(prefetcher.counts["prefetched_tokens"] + prefetcher.tokens_under_way)


def _assert_found_again(
    cache: StandaloneCache, tokens: array[int], salt: str | None, page_size: int
) -> None:
    """What was computed last is there: nothing has needed its room since.

    A load ahead that finds less room than a piece has evicted that much for nothing.
    """
    match = cache.match(tokens, salt)
    found = match.device_prefix_len + match.host_hit_length
    whole_pages = len(tokens) // page_size * page_size
    for_nothing = 0 if cache.cache.prefetcher is None else lcm(PIECE_TOKENS, page_size) - 1
    least = whole_pages - for_nothing
    assert least <= found <= whole_pages, (
        f"{found} tokens were found of {whole_pages} just computed"
    )


# ---- the endpoints ----


def make_app(cache: Any, found: Findings) -> Any:
    """The routes over a cache in this process, behind SGLang's own check of keys."""
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from sglang.srt.entrypoints.http_server import validation_exception_handler
    from sglang.srt.utils.auth import add_api_key_middleware

    from kvflow_sglang import endpoints, messages
    from kvflow_sglang.compat import http_process

    answers: dict[str, Callable[[Any], Any]] = {
        "kvflow_forecast": lambda asked: messages.ForecastAnswer(
            outcome=cache.hear(messages.to_hint(asked))
        ),
        "kvflow_status": lambda asked: messages.StatusAnswer(counts=cache.status()),
        "kvflow_receipts": lambda asked: messages.answer_receipts(cache.tenants, asked),
        "kvflow_view": lambda asked: messages.answer_view(cache.view, asked),
    }

    async def ask(name: str, message: Any) -> list[Any]:
        return [found.timed(answers[name], message)]

    endpoints.ask_schedulers = ask  # type: ignore[attr-defined]
    doorman = Doorman(allows_nesting=False)
    interpreter = Interpreter(doorman.refused, settings=Settings(), priority_sign=None)
    app = FastAPI(title="kvflow", openapi_url="/openapi.json")
    router = endpoints.make_router(doorman, interpreter, [], of_all=True)
    http_process.add_routes(app, router)
    app.add_exception_handler(RequestValidationError, validation_exception_handler)
    add_api_key_middleware(app, api_key=KEY, admin_api_key=ADMIN_KEY)
    return app


def fuzz_endpoints(cases: int, seed: int) -> Findings:
    """What the document allows, and what it does not, to every route: never a status of 500, and
    every answer as the document says."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as with_seed
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode, checks
    from starlette.testclient import TestClient

    found = Findings()
    cache = StandaloneCache("kvflow", pool_tokens=POOL_TOKENS).cache
    app = make_app(cache, found)
    client = TestClient(app, raise_server_exceptions=False)
    schema = schemathesis.openapi.from_dict(app.openapi())
    operations: list[Any] = [each.ok() for each in schema.get_all_operations()]  # type: ignore[union-attr]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    as_described = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    kinds = [(operation, mode) for operation in operations for mode in modes]

    def send(case: Any) -> None:
        is_admin = case.path.endswith("/view")
        kwargs = case.as_transport_kwargs(base_url="http://testserver")
        method, url = kwargs.pop("method"), kwargs.pop("url")
        headers = dict(kwargs.pop("headers", None) or {})
        kwargs = {name: kwargs[name] for name in ("params", "json", "data") if kwargs.get(name)}
        if "data" in kwargs and not isinstance(kwargs["data"], dict):
            kwargs["content"] = kwargs.pop("data")
        keyless = client.request(method, url, headers=headers, **kwargs)
        assert keyless.status_code in (401, 404, 405), f"without a key: {keyless.status_code}"
        headers["Authorization"] = f"Bearer {ADMIN_KEY if is_admin else KEY}"
        answer = client.request(method, url, headers=headers, **kwargs)
        found.outcomes[f"{case.path} {answer.status_code}"] += 1
        assert answer.status_code < 500, f"{answer.status_code} for {url} {kwargs}"
        case.validate_response(answer, checks=as_described)

    def fuzz_one(operation: Any, mode: Any) -> None:
        @with_seed(seed)
        @settings(
            max_examples=max(cases // len(kinds), 1),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            found.guard(f"{mode} {case.method} {case.path}", lambda: send(case))

        one()

    for operation, mode in kinds:
        try:
            fuzz_one(operation, mode)
        except Unsatisfiable:  # nothing that this route takes could be wrong
            found.outcomes[f"{operation.path} has no {mode.value} cases"] += 1
    return found


def main(
    wire: Annotated[int, typer.Option(min=0, help="Cases.")] = 2000,
    tree: Annotated[int, typer.Option(min=0, help="Cases.")] = 1000,
    endpoints: Annotated[int, typer.Option(min=0, help="Cases.")] = 200,
    seed: int = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Fuzz, and exit with 1 if anything crashed or an invariant broke."""
    parts = {"wire": (fuzz_wire, wire), "tree": (fuzz_tree, tree)}
    parts["endpoints"] = (fuzz_endpoints, endpoints)
    found: dict[str, Any] = {}
    for name, (fuzz, cases) in parts.items():
        if cases:
            started_s = time.monotonic()
            found[name] = fuzz(cases, seed).summary()
            found[name]["duration_s"] = round(time.monotonic() - started_s, 1)
            typer.echo(f"{name}: {json.dumps(found[name], ensure_ascii=True)}")
    total = {key: sum(part[key] for part in found.values()) for key in _TOTALS}
    total["longest_collection_ms"] = round(CLOCK.longest_collection_ms, 2)
    document = {"seed": seed, **total, "parts": found}
    typer.echo(json.dumps(total))
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(1 if total["crashes"] or total["broken_invariants"] else 0)


_TOTALS = ("cases", "crashes", "broken_invariants", "stalls")


if __name__ == "__main__":
    typer.run(main)
