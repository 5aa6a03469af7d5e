"""The static files of the page at `/kvflow/`, and the headers they are served with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
# Scripts, styles and data come from this server alone, and none of them from a name in the data.
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file: where it is served, what it is, and where it lies."""

    url_path: str
    media_type: str
    path: Path


def _files() -> dict[str, File]:
    """The files of the page by the path they are served at; `/kvflow/` is the page itself."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            name = path.relative_to(FOLDER).as_posix()
            url_path = "/kvflow/" if name == "index.html" else f"/kvflow/page/{name}"
            found[url_path] = File(url_path, _TYPES[path.suffix], path)
    return found


FILES = _files()
PUBLIC_PATHS = frozenset({"/kvflow", *FILES})
"""Readable without the API key: the page has no data of its own, and asks for the key."""
