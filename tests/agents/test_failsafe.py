"""What goes wrong in our code stays in it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from kvflow_agents.failsafe import Failsafe


def fail(message: str) -> None:
    raise LookupError(message)


def test_a_function_that_works_gives_its_result() -> None:
    failsafe = Failsafe("a call")
    assert failsafe(divmod, 7, 2) == (3, 1)
    assert failsafe(sorted, [1, 2], reverse=True) == [2, 1]
    assert failsafe.errors == 0


def test_a_function_that_fails_gives_none_and_is_counted() -> None:
    failsafe = Failsafe("a call")
    assert failsafe(fail, "first") is None
    assert failsafe(fail, "second") is None
    assert failsafe.errors == 2


def test_only_the_first_failure_is_logged_with_where_it_came_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failsafe = Failsafe("a call")
    for message in ("first", "second"):
        failsafe(fail, message)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("kvflow_agents", logging.WARNING)
    assert "a call goes on without kvflow" in record.getMessage()
    assert record.exc_info and str(record.exc_info[1]) == "first"


def test_each_failsafe_logs_and_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Failsafe("first"), Failsafe("second")
    first(fail, "")
    second(fail, "")
    assert len(caplog.records) == 2
    assert (first.errors, second.errors) == (1, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_the_process_or_the_task_passes(error: type[BaseException]) -> None:
    def stop() -> None:
        raise error

    failsafe = Failsafe("a call")
    with pytest.raises(error):
        failsafe(stop)
    assert failsafe.errors == 0
