"""How much is found in the cache behind SGLang's gateway, against one server with the same pool.

    .venv-server/bin/python benchmarks/router_share.py [--servers 2 --servers 4] [--json FILE]

Workflows of three agents that call in turn, through the OpenAI SDK with kvflow's hints. A few calls
are made at a time; whose workflow is next is drawn, some far more often than others. All prompts
together are twice as large as the pool, which the servers share evenly. Each agent's prompt begins
with what its role has in common with that of other workflows, goes on with what is the workflow's
own, and ends with something new.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import openai
import typer

import kvflow_agents
from kvflow_agents.routers import WORKERS_VARIABLE
from kvflow_sglang import model, tiny_model
from kvflow_sglang.server_process import GatewayProcess, ServerProcess

WORKFLOWS, CALLS = 16, 200
ROLES = ("planner", "writer", "critic")
# Of the tiny model each character is a token.
ROLE_TOKENS, OWN_TOKENS = 100, 300
POOL_TOKENS = WORKFLOWS * len(ROLES) * (ROLE_TOKENS + OWN_TOKENS) // 2
CALLS_AT_ONCE = 4
NAME = "tiny"
FLAGS = (
    *("--engine", "cpu", "--skip-server-warmup", "--sleep-on-idle"),
    *("--served-model-name", NAME),
)
POLICIES = {
    "round_robin": ("--policy", "round_robin"),
    "cache_aware": ("--policy", "cache_aware"),
    "cache_aware, key": ("--policy", "cache_aware", "--routing-key-override"),
    "round_robin, key": ("--policy", "round_robin", "--routing-key-override"),
    "manual, key": ("--policy", "manual", "--assignment-mode", "min_group"),
}
ABOUT = {
    "workflows": WORKFLOWS,
    "calls": CALLS,
    "calls_at_once": CALLS_AT_ONCE,
    "pool_tokens": POOL_TOKENS,
    "prompt_tokens": ROLE_TOKENS + OWN_TOKENS,
}


@dataclass(frozen=True)
class Share:
    """What one run found in the caches."""

    servers: int
    policy: str
    cached_share: float
    stayed_share: float
    """Calls that went where their agent's call before went."""
    calls: Sequence[int]
    """By server."""


class Run:
    """All workflows side by side."""

    def __init__(self, base_url: str, name: str) -> None:
        self._url = f"{base_url}/v1"
        self._name = name
        self._chance = random.Random(1)
        self._idle = set(range(WORKFLOWS))
        self._turns = [asyncio.Semaphore(0) for _ in range(WORKFLOWS)]
        self._calls_left = CALLS
        self._cached = self._prompts = self._stayed = self._again = 0
        self._last_server: dict[tuple[int, str], str] = {}
        self._calls: Counter[str] = Counter()

    async def run(self, servers: int, policy: str) -> Share:
        """All calls."""
        async with openai.AsyncOpenAI(base_url=self._url, api_key="none") as client:
            for _ in range(CALLS_AT_ONCE):
                self._let_one_call()
            await asyncio.gather(*(self._work(client, at) for at in range(WORKFLOWS)))
        return Share(
            servers=servers,
            policy=policy,
            cached_share=round(self._cached / self._prompts, 4),
            stayed_share=round(self._stayed / self._again, 4),
            calls=sorted(self._calls.values()),
        )

    def _let_one_call(self) -> None:
        """The first workflow is drawn 16 times as often as the last; in the end, let all go."""
        if not self._calls_left:
            for turn in self._turns:
                turn.release()
            return
        idle = sorted(self._idle)
        (at,) = self._chance.choices(idle, [1 / (1 + each) for each in idle])
        self._idle.remove(at)
        self._calls_left -= 1
        self._turns[at].release()

    async def _work(self, client: openai.AsyncOpenAI, at: int) -> None:
        name = f"{self._name}/{at}"
        async with kvflow_agents.workflow(name, base_urls=[self._url], app=self._name):
            for number, role in zip(itertools.count(), itertools.cycle(ROLES)):
                await self._turns[at].acquire()
                if at in self._idle:  # nobody has drawn it: all calls are made
                    return
                with kvflow_agents.agent(role):
                    await self._call(client, at, role, number)
                self._idle.add(at)
                self._let_one_call()

    async def _call(self, client: openai.AsyncOpenAI, at: int, role: str, number: int) -> None:
        prompt = text(role, ROLE_TOKENS) + text(f"{at} {role}", OWN_TOKENS) + f"#{number}"
        raw = await client.completions.with_raw_response.create(
            model=NAME, prompt=prompt, max_tokens=1, temperature=0
        )
        usage = raw.parse().usage
        assert usage is not None
        details = usage.prompt_tokens_details
        server = raw.headers.get("x-smg-routed-worker-id", self._url)
        self._prompts += usage.prompt_tokens
        self._cached += (details and details.cached_tokens) or 0
        self._calls[server] += 1
        before = self._last_server.get((at, role))
        self._again += before is not None
        self._stayed += before == server
        self._last_server[at, role] = server


def text(name: str, tokens: int) -> str:
    """Some text that shares no beginning with another's."""
    return "".join(f"{name}{index * 7919 % 1009} " for index in range(tokens))[:tokens]


@contextmanager
def servers_of(path: Path, count: int, folder: Path) -> Iterator[list[ServerProcess]]:
    """Servers that share the pool; they start at once."""
    flags = [*FLAGS, "--max-total-tokens", str(POOL_TOKENS // count)]
    servers = [ServerProcess(path, flags, log=folder / f"{count}-{at}.log") for at in range(count)]
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        for server in servers:
            stack.callback(server.stop)
        list(pool.map(ServerProcess.start, servers))
        yield servers


def flush(servers: Sequence[ServerProcess]) -> None:
    """Nothing cached, and nothing known."""
    for server in servers:
        request = urllib.request.Request(f"{server.base_url}/flush_cache?timeout=30", b"")
        urllib.request.urlopen(request, timeout=60).close()


def measure(
    path: Path, count: int, policies: Sequence[str], repeats: int, folder: Path
) -> Iterator[Share]:
    """One server by itself, or several with each policy of the gateway."""
    with servers_of(path, count, folder) as servers:
        for repeat in range(repeats):
            if count == 1:
                flush(servers)
                run = Run(servers[0].base_url, f"alone {repeat}")
                yield asyncio.run(run.run(1, "none"))
                continue
            urls = [server.base_url for server in servers]
            for policy in policies:
                flush(servers)
                with GatewayProcess(urls, POLICIES[policy], log=folder / "gateway.log") as gateway:
                    os.environ[WORKERS_VARIABLE] = f"{gateway.base_url}={','.join(urls)}"
                    run = Run(gateway.base_url, f"{policy} {count} {repeat}")
                    yield asyncio.run(run.run(count, policy))


def main(
    servers: Annotated[list[int], typer.Option(help="How many behind the gateway.")] = [2, 4],  # noqa: B006
    policies: Annotated[list[str], typer.Option("--policy")] = [*POLICIES],  # noqa: B006
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the shares, and write them to a file."""
    shares = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.make(folder / "tiny", tiny_model.write)
        for count in (1, *servers):
            for share in measure(folder / "tiny", count, policies, repeats, folder):
                shares.append(share)
                print(share, flush=True)
                if json_path is not None:
                    document = {"about": ABOUT, "shares": [asdict(each) for each in shares]}
                    json_path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
