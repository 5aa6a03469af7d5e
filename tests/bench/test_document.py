from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_bench.document import Document, load, runs_of, settings_of


def test_a_second_command_adds_to_the_first_ones_document(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    first = Document(path, {"command": "one"})
    first.add({"arm": "lru"})
    assert [session["command"] for session in load([path])] == ["one"]
    first.add({"arm": "kvflow"})
    Document(path, {"command": "two"}).add({"arm": "lru"})
    assert runs_of(load([path])) == [
        {"arm": "lru", "session": 0},
        {"arm": "kvflow", "session": 0},
        {"arm": "lru", "session": 1},
    ]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"format": 2, "sessions": []})])
def test_what_is_no_document_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="notes.json"):
        Document(path, {})
    assert path.read_text() == text


def test_of_a_servers_settings_only_what_decides_its_speed_is_kept() -> None:
    info = {"page_size": 1, "api_key": "secret", "hicache_size": 24}
    assert settings_of(info) == {"page_size": 1, "hicache_size": 24}
