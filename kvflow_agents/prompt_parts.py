"""The parts of a prompt, in the order in which most chat templates render them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SYSTEM_ROLES = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Part:
    """One message or tool of a prompt: `message 0 (system)`, `tool 2`."""

    place: str
    text: str
    is_tool: bool = False
    is_fixed: bool = False
    """System prompts and tools are meant to be the same in every call."""


Prompt = tuple[Part, ...]


def prompt_of(request: object) -> Prompt:
    """The prompt of an OpenAI chat or text completion body; ValueError if it has none.

    System prompts come first, then tools, then the conversation. Ids of tool calls are left out,
    for most templates do not render them.
    """
    if not isinstance(request, Mapping):
        raise ValueError("a request must be an object")
    if isinstance(request.get("prompt"), str):
        return (Part("prompt", request["prompt"]),)
    messages = _objects("messages", request.get("messages"))
    tools = _objects("tools", request.get("tools") or ())
    leading = next(
        (index for index, one in enumerate(messages) if one.get("role") not in SYSTEM_ROLES),
        len(messages),
    )
    parts = [_message_part(index, message) for index, message in enumerate(messages)]
    tool_parts = [
        Part(f"tool {index}", _json(tool), is_tool=True, is_fixed=True)
        for index, tool in enumerate(tools)
    ]
    return (*parts[:leading], *tool_parts, *parts[leading:])


def first_chars(prompt: Prompt, most_chars: int) -> Prompt:
    """The parts, or what of them fits, that begin in the first `most_chars`."""
    kept = []
    for part in prompt:
        if most_chars <= 0:
            break
        kept.append(Part(part.place, part.text[:most_chars], part.is_tool, part.is_fixed))
        most_chars -= len(part.text)
    return tuple(kept)


def _message_part(index: int, message: Mapping[str, Any]) -> Part:
    role = message.get("role")
    text = _content(message.get("content"))
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        functions = [call.get("function") if isinstance(call, Mapping) else call for call in calls]
        text += _json(functions)
    return Part(f"message {index} ({role})", text, is_fixed=role in SYSTEM_ROLES)


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return "" if content is None else _json(content)
    return "".join(
        item["text"]
        if isinstance(item, Mapping) and isinstance(item.get("text"), str)
        else _json(item)
        for item in content
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _objects(what: str, value: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, Mapping) for one in value):
        raise ValueError(f"{what} must be a list of objects")
    return value
