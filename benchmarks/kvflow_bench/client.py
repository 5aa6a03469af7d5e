"""One call to SGLang's `/generate`, streamed and timed; and the server's few other endpoints."""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from kvflow_agents.errors import KVFlowError
from kvflow_agents.hints import Hint, encode_body, encode_request

# Between two pieces of an answer; a queue of long prompts can take minutes.
READ_TIMEOUT_S = 300.0
FLUSH_TIMEOUT_S = 60.0
DATA = b"data: "
END_OF_STREAM = b"data: [DONE]"


class ServerCallError(KVFlowError):
    """A server refused or dropped what a benchmark asked of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call cost, and what was said."""

    latency_s: float
    first_token_s: float
    prompt_tokens: int
    cached_tokens: int
    host_tokens: int
    """Of the cached tokens, those that were loaded back from the host tier for this call."""
    output: Sequence[int]

    @property
    def inter_token_s(self) -> float | None:
        """The mean time between two tokens of the answer; None for a single token."""
        gaps = len(self.output) - 1
        return (self.latency_s - self.first_token_s) / gaps if gaps > 0 else None

    @property
    def output_hash(self) -> str:
        """A name for the answer, equal for equal tokens."""
        return hashlib.blake2b(array("q", self.output).tobytes(), digest_size=4).hexdigest()


class Client:
    """Talks to one server; an asynchronous context manager."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = aiohttp.ClientSession(
            # Servers close what was silent for 5 s, perhaps as it is used again.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=READ_TIMEOUT_S),
            read_bufsize=1 << 20,
        )

    async def generate(
        self,
        prompt: Sequence[int],
        output_tokens: int,
        hint: Hint | None,
        adapter: str | None = None,
    ) -> Answer:
        """The greedy answer of exactly `output_tokens`; raises `ServerCallError`."""
        body = generate_body(prompt, output_tokens, hint, adapter)
        pieces: list[bytes] = []
        first_s = last_s = 0.0
        try:
            started_s = time.perf_counter()
            async with self._session.post(
                f"{self._base_url}/generate",
                data=body,
                headers={"Content-Type": "application/json"},
            ) as response:
                if response.status != 200:
                    raise ServerCallError(f"/generate: {response.status} {await response.text()}")
                async for line in response.content:
                    if line.startswith(DATA):
                        last_s = time.perf_counter() - started_s
                        first_s = first_s or last_s
                        pieces.append(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerCallError(f"/generate: {error!r}") from error
        return read_answer(pieces, first_token_s=first_s, latency_s=last_s)

    async def tell(self, hint: Hint) -> None:
        """Send a forecast that no request carries."""
        await self._post("/kvflow/forecast", encode_body(hint))

    async def load_adapter(self, name: str, path: Path) -> None:
        """Let the server know a LoRA adapter; it keeps in memory as many as it may."""
        await self._post("/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})

    async def flush(self) -> None:
        """Empty the cache, once the server has nothing left to do."""
        await self._post(f"/flush_cache?timeout={FLUSH_TIMEOUT_S:.0f}")

    async def metrics(self) -> str:
        """The server's metrics; empty if it was started without `--enable-metrics`."""
        return await self._find("/metrics")

    async def status(self) -> dict[str, Any]:
        """What kvflow counts; empty on a stock server."""
        return _object(await self._find("/kvflow/status"))

    async def server_info(self) -> dict[str, Any]:
        """The server's own account of its settings and sizes."""
        return _object(await self._find("/server_info"))

    async def _find(self, path: str) -> str:
        """What is at a path; empty if there is nothing."""
        try:
            async with self._session.get(self._base_url + path) as response:
                return await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerCallError(f"{path}: {error!r}") from error

    async def _post(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        try:
            async with self._session.post(self._base_url + path, json=body) as response:
                if response.status != 200:
                    raise ServerCallError(f"{path}: {response.status} {await response.text()}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerCallError(f"{path}: {error!r}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()


def generate_body(
    prompt: Sequence[int], output_tokens: int, hint: Hint | None, adapter: str | None = None
) -> bytes:
    """The body of a greedy, streamed `/generate` of a fixed length; no adapter: the base model."""
    sampling: dict[str, Any] = {
        "temperature": 0,
        "max_new_tokens": output_tokens,
        "ignore_eos": True,
    }
    if hint is not None:
        sampling["custom_params"] = encode_request(hint)
    body = {"input_ids": list(prompt), "sampling_params": sampling, "stream": True}
    if adapter is not None:
        body["lora_path"] = adapter
    return json.dumps(body, separators=(",", ":")).encode()


def read_answer(pieces: Sequence[bytes], *, first_token_s: float, latency_s: float) -> Answer:
    """The answer in a stream's events; raises `ServerCallError` if there is none."""
    events = [piece for piece in pieces if not piece.startswith(END_OF_STREAM)]
    if not events:
        raise ServerCallError("/generate: the stream ended before its first token")
    last = json.loads(events[-1].removeprefix(DATA))
    if "meta_info" not in last:
        raise ServerCallError(f"/generate: {last.get('error', last)}")
    meta = last["meta_info"]
    finish = meta.get("finish_reason") or {}
    if finish.get("type") == "abort":
        raise ServerCallError(f"/generate was aborted: {finish.get('message')}")
    output = last["output_ids"]
    if len(output) < meta["completion_tokens"]:
        # A server with `--incremental-streaming-output`.
        output = [
            token
            for event in events
            for token in json.loads(event.removeprefix(DATA)).get("output_ids", [])
        ]
    details = meta.get("cached_tokens_details") or {}
    return Answer(
        latency_s=latency_s,
        first_token_s=first_token_s,
        prompt_tokens=meta["prompt_tokens"],
        cached_tokens=meta["cached_tokens"],
        host_tokens=details.get("host", 0),
        output=output,
    )


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}
