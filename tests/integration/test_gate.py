"""The gate of CI, with sessions of pytest in folders of their own; and what a session leaves that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import gate
from tests.lab import leavings
from tests.lab.host import REPOSITORY
from tests.workshop import running, until

PYTEST = [sys.executable, "-m", "pytest", "-q"]
FAILS_ONCE = """
import pathlib
def test_fails_once():
    before = pathlib.Path("before")
    if not before.exists():
        before.touch()
        raise AssertionError("among the others")
"""
WAITS = """
import time
def test_waits():
    open("waits", "w").close()
    time.sleep(1000)
"""

Gated = Callable[..., subprocess.Popen[str]]
Session = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    """`gated(TEXT, WORDS, seconds)`: the gate, for a folder whose tests are TEXT, run by WORDS."""

    def start(text: str, words: list[str] = PYTEST, seconds: float = 300) -> subprocess.Popen[str]:
        (tmp_path / "conftest.py").write_text("from tests.outcomes import pytest_configure")
        (tmp_path / "test_it.py").write_text(text)
        asked = [sys.executable, "-m", "tests.gate", "--until", str(time.time() + seconds), "--", *words]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(asked, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def session(gated: Gated) -> Session:
    """The gate's end."""

    def run(*words: Any) -> subprocess.CompletedProcess[str]:
        with gated(*words) as gate:
            said, _ = gate.communicate(timeout=200)
        return subprocess.CompletedProcess(words, gate.returncode, said)

    return run


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_passes_alone_is_named_as_flaky(session: Session, workers: str) -> None:
    done = session(FAILS_ONCE + "def test_passes(): assert 1", [*PYTEST, "-n", workers])
    assert done.returncode == 0, done.stdout
    assert "ci: 2 tests ran" in done.stdout and " s  test_it.py::test_passes\n" in done.stdout
    assert (
        "flaky: failed among the others, passed alone, to be mended: 1\n    test_it.py::test_fails_once" in done.stdout
    )
    assert "AssertionError: among the others" in done.stdout.partition("flaky")[2]
    assert done.stdout.endswith("\n2 passed, 0 failed, 0 skipped\n")


def test_what_fails_twice_is_red(session: Session) -> None:
    """Whatever is in the name of its case, and wherever it fails."""
    cases = ["a b", "[x]", "a::b", "'\\n$HOME"]
    text = f"""
import pytest
@pytest.mark.parametrize("case", {cases})
def test_fails(case): raise AssertionError("always")
@pytest.fixture
def ends_badly():
    yield
    raise AssertionError("at its end")
def test_ends_badly(ends_badly): assert 1
def test_is_skipped(): pytest.skip("for a reason")
"""
    done = session(FAILS_ONCE + text)
    assert done.returncode == 1, done.stdout
    assert "failed twice, or not tried again: 5" in done.stdout and done.stdout.count("flaky: ") == 1
    assert "at its end" in done.stdout.partition("failed twice")[2]
    assert done.stdout.endswith("\n1 passed, 5 failed, 1 skipped\n")


def test_too_many_are_not_tried_again(session: Session) -> None:
    text = f"""
import pytest
@pytest.mark.parametrize("number", range({gate.AGAIN + 1}))
def test_fails(number): raise AssertionError(number)
"""
    done = session(text)
    assert done.returncode == 1 and "tried once more" not in done.stdout
    assert done.stdout.endswith(f"\n0 passed, {gate.AGAIN + 1} failed, 0 skipped\n")


@pytest.mark.parametrize("text", ["import nothing_of_that_name", "import os\ndef test_ends_all(): os._exit(0)", ""])
def test_a_session_without_an_end_is_red(session: Session, text: str) -> None:
    done = session(text)
    assert done.returncode == 2 and "ci: the tests did not run to their end" in done.stdout, done.stdout


def test_when_the_time_is_up_it_says_which_tests_ran(gated: Gated, tmp_path: Path) -> None:
    text = "def test_passes(): assert 1\n" + WAITS + "def test_comes_after(): assert 1\n"
    with gated(text) as gate:
        until((tmp_path / "waits").exists)
        gate.terminate()
        said, _ = gate.communicate(timeout=120)
    assert gate.returncode == 3, said
    assert "ci: the time is up: 1 of 3 tests ran\n    was running: test_it.py::test_waits" in said
    assert "test_it.py: 1 of 3" in said


def test_its_time_is_up_by_the_clock(gated: Gated) -> None:
    with gated(WAITS, seconds=1) as gate:
        said, _ = gate.communicate(timeout=120)
    assert gate.returncode == 3 and "ci: the time is up" in said, said


def test_what_a_killed_session_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """A process with its variables, one without that works in its folder, and the child of one that names it."""
    folder, left = tmp_path / "records", tmp_path / "session-1"
    folder.mkdir()
    (left / "work").mkdir(parents=True)
    beside = tmp_path / "session-10"
    beside.mkdir()
    once, twice, thrice, other = (f"1003.{os.getpid()}{number}" for number in range(4))  # seconds
    program = f"""
import os, pathlib, signal, subprocess
from tests.lab import leavings
with leavings.recorded(pathlib.Path({str(left)!r}), pathlib.Path({str(folder)!r})):
    subprocess.Popen(["setsid", "sleep", "{once}"])
    subprocess.Popen(["setsid", "sleep", "{twice}"], env={{}}, cwd={str(left / "work")!r})
    subprocess.Popen(["setsid", "sh", "-c", "sleep {thrice}; :", {str(left / "work")!r}], env={{}})
    subprocess.Popen(["setsid", "sleep", "{other}"], env={{"HOME": {str(beside)!r}}}, cwd={str(beside)!r})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {name: value for name, value in os.environ.items() if name != leavings.VARIABLE}
    killed = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=env)
    assert killed.returncode == -signal.SIGKILL

    def alive() -> set[str]:
        return {each for each in (once, twice, thrice, other) if running(each)}

    until(lambda: alive() == {once, twice, thrice, other})
    with leavings.recorded(tmp_path / "session-2", folder):
        assert alive() == {other}
        assert [path.read_text() for path in folder.iterdir()] == [str(tmp_path / "session-2")]
        assert os.environ[leavings.VARIABLE] == str(tmp_path / "session-2")
    assert list(folder.iterdir()) == []
    leavings.end(beside)
    assert alive() == set()
