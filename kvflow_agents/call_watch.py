"""Follows what the OpenAI SDK returns to the end of its answer, without changing any of it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from functools import cache, lru_cache
from typing import Any

from kvflow_agents.call_records import CallUnderWay
from kvflow_agents.failsafe import Failsafe


def watch(call: CallUnderWay, result: Any, failsafe: Failsafe) -> None:
    """Note what a call's result tells, now and as it is read.

    A parsed answer is complete, a stream ends with its response, and a raw response tells what
    was used when the application parses it.
    """
    made: Any = type(result)
    if _is_answer(made):
        _note_usage(call, result)
        call.end()
    elif _is_stream(made):
        _watch_stream(call, result, failsafe)
    elif hasattr(result, "http_response"):
        response = result.http_response
        if response.is_closed:
            call.end()
        else:
            _end_with(response, call, failsafe)
        _watch_parsing(call, result, failsafe)
    else:
        _note_usage(call, result)
        call.end()


@cache
def _streams() -> tuple[type, ...]:
    from openai import AsyncStream, Stream

    return Stream, AsyncStream


# Asked of a type, and remembered: `isinstance` goes through the metaclass of each.
@lru_cache(maxsize=256)
def _is_answer(made: type[Any]) -> bool:
    from openai import BaseModel

    return issubclass(made, BaseModel)


@lru_cache(maxsize=256)
def _is_stream(made: type[Any]) -> bool:
    return issubclass(made, _streams())


_is_async = lru_cache(maxsize=256)(inspect.iscoroutinefunction)


def _note_usage(call: CallUnderWay, answer: Any) -> None:
    usage = getattr(answer, "usage", None)
    if usage is not None:
        details = getattr(usage, "prompt_tokens_details", None)
        cached_tokens = getattr(details, "cached_tokens", None)
        call.use(usage.prompt_tokens, cached_tokens, getattr(usage, "completion_tokens", None))


def _watch_stream(call: CallUnderWay, stream: Any, failsafe: Failsafe) -> None:
    # The iterator is where both `next` and `for` take their chunks from.
    chunks = _AsyncChunks if hasattr(stream, "__anext__") else _Chunks
    stream._iterator = chunks(stream._iterator, call, failsafe)
    _end_with(stream.response, call, failsafe)


def _watch_parsing(call: CallUnderWay, result: Any, failsafe: Failsafe) -> None:
    parse = result.parse

    def parse_once(*args: Any, **kwargs: Any) -> Any:
        parsed = parse(*args, **kwargs)
        failsafe(_note_parsed, call, result, parsed, failsafe)
        return parsed

    async def parse_once_later(*args: Any, **kwargs: Any) -> Any:
        parsed = await parse(*args, **kwargs)
        failsafe(_note_parsed, call, result, parsed, failsafe)
        return parsed

    # Asked of the function, and remembered: of the bound method it takes five of inspect's.
    is_later = _is_async(getattr(parse, "__func__", parse))
    result.parse = parse_once_later if is_later else parse_once


def _note_parsed(call: CallUnderWay, result: Any, parsed: Any, failsafe: Failsafe) -> None:
    # What is parsed once more has been seen; and nothing is left that refers to itself.
    vars(result).pop("parse", None)
    if isinstance(parsed, _streams()):
        _watch_stream(call, parsed, failsafe)
    else:
        _note_usage(call, parsed)


def _end_with(response: Any, call: CallUnderWay, failsafe: Failsafe) -> None:
    """End a call when its response closes, which is the one thing that all ends have in common."""
    original_close, original_aclose = response.close, response.aclose

    def end() -> None:
        for name in ("close", "aclose"):
            vars(response).pop(name, None)
        call.end()

    def close() -> None:
        failsafe(end)
        original_close()

    async def aclose() -> None:
        failsafe(end)
        await original_aclose()

    response.close, response.aclose = close, aclose


class _Chunks:
    """The chunks of a stream, seen as they pass."""

    def __init__(self, chunks: Iterator[Any], call: CallUnderWay, failsafe: Failsafe) -> None:
        self._chunks = chunks
        self._call = call
        self._failsafe = failsafe

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            raise
        except BaseException:
            self._failsafe(self._call.fail)
            raise
        self._failsafe(_see, self._call, chunk)
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chunks, name)


class _AsyncChunks:
    """The chunks of an asynchronous stream, seen as they pass."""

    def __init__(self, chunks: AsyncIterator[Any], call: CallUnderWay, failsafe: Failsafe) -> None:
        self._chunks = chunks
        self._call = call
        self._failsafe = failsafe

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except BaseException:
            self._failsafe(self._call.fail)
            raise
        self._failsafe(_see, self._call, chunk)
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chunks, name)


def _see(call: CallUnderWay, chunk: Any) -> None:
    call.answer()
    _note_usage(call, chunk)
