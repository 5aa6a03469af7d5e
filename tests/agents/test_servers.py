"""Which servers get hints."""

from __future__ import annotations

import pytest

from kvflow_agents import ConfigurationError
from kvflow_agents.servers import AllowedServers, root_of


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVFLOW_BASE_URLS", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.mark.parametrize(
    ("entry", "base_url"),
    [
        ("http://localhost:30000/v1", "http://localhost:30000/v1"),
        ("http://localhost:30000/v1", "http://localhost:30000/v1/"),
        ("http://localhost:30000/v1/", "http://localhost:30000/v1"),
        ("http://localhost:30000/v1", "http://localhost:30000/v1/deeper"),
        ("http://localhost:30000", "http://localhost:30000/v1"),
        ("http://localhost:30000/", "http://localhost:30000"),
        ("http://LocalHost:30000/v1", "http://localhost:30000/v1"),
        ("http://localhost:30000/v1", "HTTP://LOCALHOST:30000/v1"),
        ("http://localhost/v1", "http://localhost:80/v1"),
        ("http://localhost:80/v1", "http://localhost/v1"),
        ("https://localhost:443/v1", "https://localhost/v1"),
        ("http://[::1]:30000/v1", "http://[::1]:30000/v1"),
        ("http://localhost/v1", "http://user:password@localhost/v1"),
    ],
)
def test_an_entry_allows_what_lies_under_it(entry: str, base_url: str) -> None:
    assert AllowedServers([entry]).allows(base_url)


@pytest.mark.parametrize(
    ("entry", "base_url"),
    [
        ("http://localhost:30000/v1", "http://localhost:30000/v10"),
        ("http://localhost:30000/v1", "http://localhost:30000/v1beta/v1"),
        ("http://localhost:30000/v1", "http://localhost:30000"),
        ("http://localhost:30000/v1", "http://localhost:30000/V1"),
        ("http://localhost:30000/v1", "http://localhost:30000/other/v1"),
        ("http://localhost:30000/v1", "http://localhost:30001/v1"),
        ("http://localhost:30000/v1", "https://localhost:30000/v1"),
        ("http://localhost/v1", "https://localhost/v1"),
        ("https://localhost/v1", "https://localhost:80/v1"),
        ("http://localhost", "http://localhost.example"),
        ("http://localhost", "http://other.localhost"),
        ("http://localhost", "http://localhost@other.example"),
        ("http://localhost/v1", "http://other.example/http://localhost/v1"),
    ],
)
def test_an_entry_allows_nothing_else(entry: str, base_url: str) -> None:
    assert not AllowedServers([entry]).allows(base_url)


def test_any_of_several_entries_allows() -> None:
    servers = AllowedServers(["http://a.example/v1", "http://b.example/v1"])
    assert servers.allows("http://a.example/v1")
    assert servers.allows("http://b.example/v1")
    assert not servers.allows("http://c.example/v1")


@pytest.mark.parametrize("base_url", ["http+unix://socket/v1", "relative/v1", "", "http://[::1/v1"])
def test_a_client_with_a_base_url_of_another_kind_gets_no_hints(base_url: str) -> None:
    assert not AllowedServers(["http://localhost"]).allows(base_url)


def test_the_sdks_own_variable_lists_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://sdk.example/v1")
    with pytest.raises(ConfigurationError, match="KVFLOW_BASE_URLS"):
        AllowedServers()
    monkeypatch.setenv("KVFLOW_BASE_URLS", " http://a.example/v1 , http://b.example/v1,")
    servers = AllowedServers()
    assert servers.allows("http://a.example/v1")
    assert servers.allows("http://b.example/v1")
    assert not servers.allows("http://sdk.example/v1")


def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVFLOW_BASE_URLS", "http://variable.example/v1")
    servers = AllowedServers(iter(["http://argument.example/v1"]))
    assert servers.allows("http://argument.example/v1")
    assert not servers.allows("http://variable.example/v1")


@pytest.mark.parametrize("variable", [None, "", " , "])
def test_without_a_server_an_error_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("KVFLOW_BASE_URLS", variable)
    with pytest.raises(ConfigurationError, match=r"base_urls=\[.*\] or set KVFLOW_BASE_URLS"):
        AllowedServers()


def test_an_empty_list_is_not_taken_for_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVFLOW_BASE_URLS", "http://variable.example/v1")
    with pytest.raises(ConfigurationError, match="which servers"):
        AllowedServers([])


def test_one_text_is_refused_where_a_list_belongs() -> None:
    with pytest.raises(ConfigurationError, match="must be a list of URLs, not the text 'http://a'"):
        AllowedServers("http://a")


@pytest.mark.parametrize(
    "url", ["localhost:30000", "localhost", "ftp://localhost", "http://", "http:///v1", ""]
)
def test_an_entry_that_is_no_http_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match="is not an http or https URL with a host"
    ) as error:
        AllowedServers([url])
    assert repr(url) in str(error.value)


@pytest.mark.parametrize("url", ["http://localhost:port", "http://localhost:99999", "http://[::1"])
def test_an_entry_that_is_no_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a URL") as error:
        AllowedServers([url])
    assert repr(url) in str(error.value)


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("http://localhost:30000/v1", "http://localhost:30000"),
        ("http://localhost:30000/v1/", "http://localhost:30000"),
        ("http://localhost:30000", "http://localhost:30000"),
        ("http://localhost/proxy/v1/", "http://localhost/proxy"),
        ("http://localhost/v10", "http://localhost/v10"),
    ],
)
def test_a_root_is_a_base_url_without_its_version(base_url: str, root: str) -> None:
    assert root_of(base_url) == root


def test_an_entry_may_name_its_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = AllowedServers(
        ["dynamo+http://a.example/v1", "ASK+HTTP://b.example/v1", "https://c.example/v1"]
    )
    assert servers.dialect("http://a.example/v1") == "dynamo"
    assert servers.dialect("http://b.example/v1") == "ask"
    assert servers.dialect("https://c.example/v1") == "kvflow"
    assert servers.dialect("http://d.example/v1") is None
    monkeypatch.setenv("KVFLOW_DIALECT", "priority_low_first")
    monkeypatch.setenv("KVFLOW_BASE_URLS", "none+http://a.example, http://b.example")
    servers = AllowedServers()
    assert servers.dialect("http://a.example/v1") == "none"
    assert servers.dialect("http://b.example/v1") == "priority_low_first"


@pytest.mark.parametrize("entry", ["klingon+http://a.example", "kv_hint+http://a.example"])
def test_an_unknown_dialect_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    name = entry.partition("+")[0]
    with pytest.raises(ConfigurationError, match=f"dialect '{name}'; known are kvflow, kv_hints"):
        AllowedServers([entry])
    monkeypatch.setenv("KVFLOW_DIALECT", name)
    with pytest.raises(ConfigurationError, match=f"KVFLOW_DIALECT names the dialect '{name}'"):
        AllowedServers(["http://a.example"])
