"""The one change to the OpenAI SDK: a look at every request before it leaves."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Protocol

from kvflow_agents.call_watch import watch
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.failsafe import Failsafe, logger
from kvflow_agents.identity_map import IdentityMap
from kvflow_agents.originals import Method, Originals
from kvflow_agents.refusal import Attempt, Refusals, attempt, failsafe


class Passenger(Protocol):
    """Who may add something to requests."""

    @property
    def failsafe(self) -> Failsafe: ...

    def attach(self, client: Any, base_url: str, options: Any, made: Attempt) -> bool:
        """Add to the options of a request, made for a call; whether anything was added."""


class SDK:
    """The OpenAI SDK of this process, changed while there is any passenger."""

    def __init__(self) -> None:
        self._passengers: tuple[Passenger, ...] = ()
        self._originals = Originals()
        self._refusals = Refusals()
        self._has_warned = False
        # A URL puts its text together anew each time.
        self._base_urls: IdentityMap[str] = IdentityMap()
        self._lock = threading.Lock()

    def add(self, passenger: Passenger) -> None:
        """Let a passenger look at requests; ConfigurationError without the SDK."""
        with self._lock:
            if passenger in self._passengers:
                return
            if not self._passengers:
                self._patch()
            self._passengers = (*self._passengers, passenger)

    def remove(self, passenger: Passenger) -> None:
        """Show a passenger no more; the last to go leaves the SDK as it was."""
        with self._lock:
            if passenger not in self._passengers:
                return
            self._passengers = tuple(other for other in self._passengers if other is not passenger)
            if not self._passengers:
                self._originals.restore()

    def _patch(self) -> None:
        try:
            from openai import APIStatusError, AsyncOpenAI, OpenAI
            from openai._base_client import AsyncAPIClient, SyncAPIClient
        except ImportError as error:
            raise ConfigurationError(
                "hints travel with the OpenAI SDK, which is not installed: pip install openai"
            ) from error

        replace = self._originals.replace
        # "Hook for mutating the given options": runs once per attempt, retries included.
        replace(SyncAPIClient, "_prepare_options", self._wrap)
        replace(AsyncAPIClient, "_prepare_options", self._wrap_async)
        request = partial(self._wrap_request, APIStatusError)
        arequest = partial(self._wrap_async_request, APIStatusError)
        replace(SyncAPIClient, "request", request)
        replace(AsyncAPIClient, "request", arequest)
        # Tracers wrap the method here, and go on to the one that they have found there.
        if "request" in vars(OpenAI):
            replace(OpenAI, "request", request)
        if "request" in vars(AsyncOpenAI):
            replace(AsyncOpenAI, "request", arequest)

    def _wrap(self, original: Method) -> Method:
        def prepare_options(client: Any, options: Any) -> Any:
            return self._attach(client, original(client, options))

        return prepare_options

    def _wrap_async(self, original: Method) -> Method:
        async def prepare_options(client: Any, options: Any) -> Any:
            return self._attach(client, await original(client, options))

        return prepare_options

    def _wrap_request(self, status_error: type[Any], original: Method) -> Method:
        def request(client: Any, *args: Any, **kwargs: Any) -> Any:
            with Attempt() as made:
                try:
                    return self._watched(made, original(client, *args, **kwargs))
                except status_error as error:
                    if not self._refusals.may_be(made, error.status_code):
                        raise
                    status = error.status_code
                made.is_plain = True
                result = original(client, *args, **kwargs)
                self._refusals.add(made, status)
                return self._watched(made, result)

        return request

    def _wrap_async_request(self, status_error: type[Any], original: Method) -> Method:
        async def request(client: Any, *args: Any, **kwargs: Any) -> Any:
            with Attempt() as made:
                try:
                    return self._watched(made, await original(client, *args, **kwargs))
                except status_error as error:
                    if not self._refusals.may_be(made, error.status_code):
                        raise
                    status = error.status_code
                made.is_plain = True
                result = await original(client, *args, **kwargs)
                self._refusals.add(made, status)
                return self._watched(made, result)

        return request

    def _watched(self, made: Attempt, result: Any) -> Any:
        if made.call is not None:
            failsafe(watch, made.call, result, failsafe)
        return result

    def _attach(self, client: Any, options: Any) -> Any:
        failsafe(self._attach_all, client, options)
        return options

    def _attach_all(self, client: Any, options: Any) -> None:
        made = attempt.get()
        if made is None:
            # Around a method that we do not know of: it could not be made again without a hint.
            self._warn_of_unknown_callers()
            return
        base_url = self._base_url_of(client)
        if base_url in self._refusals.servers or made.is_plain:
            return
        for passenger in self._passengers:
            if passenger.failsafe(passenger.attach, client, base_url, options, made):
                made.hinted_server = base_url
                return  # the others' hints would be of the same call

    def _warn_of_unknown_callers(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "calls of the OpenAI SDK get no hints: somebody replaces its method `request`, or "
                "calls others in its stead"
            )

    def _base_url_of(self, client: Any) -> str:
        url = client._base_url  # openai 3 imports something each time it is asked for `base_url`
        text = self._base_urls.get(url)
        if text is None:
            text = self._base_urls[url] = str(url)
        return text


sdk = SDK()
