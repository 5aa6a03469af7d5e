"""The store: kept from process to process, whatever happens to its file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvflow_agents import App, StepGraph, Workflow
from kvflow_agents import keeper as keeper_module
from kvflow_agents.habit_store import MAX_APPS, HabitStore
from kvflow_agents.habits import Habits
from kvflow_agents.keeper import Keeper, keep_habits, keeper
from kvflow_agents.runs import Runs
from kvflow_agents.trail import Trail

STEPS = {"a": 0, "b": 1}


def teach(habits: Habits, runs: int = 20) -> Habits:
    now_s = 0.0

    def clock() -> float:
        return now_s

    for _ in range(runs):
        trail = Trail(habits, clock)
        for agent in "ab":
            trail.call(agent)
            now_s += 2.0
            trail.finish(agent)
        trail.end()
    return habits


LEARNED = teach(Habits()).figures("a", STEPS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "habits.sqlite"


@pytest.fixture
def kept(path: Path) -> HabitStore:
    store = HabitStore(path)
    store.save("app", teach(Habits()))
    return store


@pytest.fixture
def no_keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(keeper_module, "_keeper", None)
    monkeypatch.delenv("KVFLOW_STORE", raising=False)
    yield


def loaded(store: HabitStore, app: str = "app") -> Habits:
    habits = Habits()
    store.load(app, habits)
    return habits


def test_what_is_saved_is_there_for_the_next_process(kept: HabitStore) -> None:
    assert LEARNED[0] and LEARNED[1]
    assert loaded(HabitStore(kept.path)).figures("a", STEPS) == LEARNED
    assert not kept.load("other", Habits())


def test_nothing_is_there_before_something_is_saved(path: Path) -> None:
    assert not HabitStore(path).load("app", Habits())
    assert not path.exists()


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "text": b"this is no database\n" * 50,
            "truncated": whole[:middle],
            "cut in its header": whole[:50],
            "zeros at its start": bytes(4096) + whole[4096:],
            "garbled": whole[:100] + b"\xff" * (len(whole) - 100),
        }[how]
    )


@pytest.mark.parametrize(
    "how", ["text", "truncated", "cut in its header", "zeros at its start", "garbled"]
)
def test_a_corrupt_file_is_set_aside_and_begun_anew(
    kept: HabitStore, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(kept.path, how)
    damaged = kept.path.read_bytes()
    assert loaded(kept).figures("a", STEPS) == ({}, {})
    assert (kept.path.parent / "habits.sqlite.corrupt").read_bytes() == damaged
    assert "begun anew" in caplog.text
    kept.save("app", teach(Habits()))
    assert loaded(kept).figures("a", STEPS) == LEARNED


@pytest.mark.parametrize(
    "packed",
    [
        b"not packed",
        zlib.compress(b"not json"),
        zlib.compress(b"{}"),
        zlib.compress(b"[" * 100_000),
        zlib.compress(b" " * 30_000_000),
        "text",
        7,
    ],
    ids=["unpacked", "no JSON", "other JSON", "deep", "a bomb", "text", "number"],
)
def test_an_unusable_entry_is_left_alone_with_a_message(
    kept: HabitStore, packed: object, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(kept.path) as database:
        database.execute("update habits set packed = ?", [packed])
    database.close()
    assert loaded(kept).figures("a", STEPS) == ({}, {})
    assert "unusable" in caplog.text
    kept.save("app", teach(Habits()))
    assert loaded(kept).figures("a", STEPS) == LEARNED


def test_another_programs_database_is_not_touched(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("create table habits (mine text)")
    database.close()
    with pytest.raises(sqlite3.OperationalError):
        HabitStore(path).save("app", Habits())
    with sqlite3.connect(path) as database:
        assert database.execute("select mine from habits").fetchall() == []
    database.close()


def test_the_number_of_applications_is_bounded(path: Path) -> None:
    store, habits = HabitStore(path), teach(Habits())
    for number in range(MAX_APPS + 20):
        store.save(f"app {number}", habits)
    with sqlite3.connect(path) as database:
        names = {name for (name,) in database.execute("select app from habits")}
    database.close()
    assert names == {f"app {number}" for number in range(20, MAX_APPS + 20)}


PROCESS = """
import sys
from pathlib import Path
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.habit_store import HabitStore
from tests.agents.test_habit_store import Habits, teach
store, try_to = HabitStore(Path(sys.argv[1])), Failsafe("a save")
for number in range(40):
    try_to(store.save, f"app {sys.argv[2]} {number % 4}", teach(Habits(), 5))
    try_to(store.save, "shared", teach(Habits(), 5))
"""


def test_several_processes_share_it_without_damage(path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROCESS, str(path)]
    processes = [subprocess.Popen([*command, name], cwd=root) for name in "xy"]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for app in ("app x 3", "app y 0", "shared"):
        assert loaded(HabitStore(path), app).figures("a", STEPS)[1]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class CountingStore:
    """Counts, and tells when it has."""

    def __init__(self) -> None:
        self.loads = self.saves = 0
        self.saved = threading.Event()

    def load(self, app: str, habits: Habits) -> bool:
        self.loads += 1
        return False

    def save(self, app: str, habits: Habits) -> bool:
        self.saves += 1
        self.saved.set()
        return True


class FailingStore(CountingStore):
    def save(self, app: str, habits: Habits) -> bool:
        super().save(app, habits)
        raise OSError("no room")


def test_a_save_that_fails_ends_its_round() -> None:
    store = FailingStore()
    keep = Keeper(store, clock=lambda: 0.0)
    first = App(StepGraph(agents=["a"]), name="first")
    keep.ended(first)
    assert store.saved.wait(10)
    keep.flush()
    before = store.saves
    # Not yet due, so that they wait for each other.
    keep._saved_s |= {"second": 0.0, "third": 0.0}
    for name in ("second", "third"):
        keep.ended(App(StepGraph(agents=["a"]), name=name))
    keep.flush()
    assert store.saves == before + 1


def test_a_folder_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep = Keeper(HabitStore(tmp_path / "missing" / "habits.sqlite"), save_every_s=0.0)
    app = App(StepGraph(agents=["a"]))
    for _ in range(3):
        keep.began(app)
        keep.ended(app)
        keep.flush()
    assert keep.failsafe.errors
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_leaves_the_application_alone(kept: HabitStore) -> None:
    kept.path.chmod(0o400)
    kept.path.parent.chmod(0o500)
    keep = Keeper(kept)
    app = App(StepGraph(agents=["a"]), name="app")
    keep.began(app)
    keep.ended(app)
    keep.flush()
    kept.path.parent.chmod(0o700)
    assert keep.failsafe.errors


def test_an_application_is_loaded_once_and_saved_once_in_a_while() -> None:
    store, now_s = CountingStore(), 0.0
    keep = Keeper(store, clock=lambda: now_s)
    app = App(StepGraph(agents=["a"]))
    for _ in range(100):
        keep.began(app)
        keep.ended(app)
    assert store.saved.wait(10)
    keep.flush()
    assert store.loads == 1
    # The first, what was left when it was flushed, and at most one that met with either.
    saves = store.saves
    assert saves <= 3
    now_s = 29.0
    keep.ended(app)
    assert store.saves == saves
    keep.flush()
    assert store.saves == saves + 1


def test_runs_keep_what_they_teach_in_the_file_that_is_named(
    path: Path, no_keeper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keeper() is None
    monkeypatch.setenv("KVFLOW_STORE", str(path))
    graph = StepGraph(agents=["a", "b"])
    runs, app = Runs(), App(graph)
    for _ in range(20):
        run = runs.begin(None, app, [])
        for agent in "ab":
            run.workflow.plan("", [agent])
            run.workflow.hint(agent)
        runs.end(run, resumable=False)
    keep = keeper()
    assert keep is not None
    keep.flush()
    keep_habits(path)
    again, other = App(graph), keeper()
    assert other is not None and other is not keep
    Runs().begin(None, again, [])
    other.flush()
    workflow = Workflow("run", again, first_seq=0)
    workflow.plan("", ["a", "b"])
    assert workflow.hint("a").forecast.chance["b"] > 90


FORK = """
import os, signal, sys, threading
from kvflow_agents import App, StepGraph
from kvflow_agents.keeper import Keeper

class Store:
    def __init__(self):
        self.begun, self.go_on, self.saved = threading.Event(), threading.Event(), []
    def load(self, app, habits):
        return False
    def save(self, app, habits):
        self.saved.append((os.getpid(), app))
        with habits._lock:  # as while it is written down
            self.begun.set()
            return self.go_on.wait(30)

store = Store()
keep = Keeper(store)
app = App(StepGraph(agents=["a"]), name="parent")
keep.ended(app)
store.begun.wait(30)
child = os.fork()
if child == 0:
    signal.alarm(30)
    store.go_on.set()
    store.saved.clear()
    app.timing.habits.dump()
    keep.ended(App(StepGraph(agents=["a"]), name="child"))
    keep.flush()
    os._exit(0 if {name for _, name in store.saved} <= {"child"} else 1)
store.go_on.set()
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_that_is_forked_during_a_save_does_not_wait_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], timeout=120, check=False)
    assert done.returncode == 0
