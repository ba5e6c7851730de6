"""The gate of CI: every test, and what failed among the others once more, alone. `.ci/run` calls it.

    python -m tests.gate --until EPOCH      everything; ends by then, in seconds since 1970
    python -m tests.gate --until EPOCH -- WORDS …      WORDS run the tests, instead of `make test`

A test that passes alone is flaky: it is named with its first failure, and the gate is open all the same. One that fails
twice closes it, as do more than `AGAIN` failures, a session that does not come to its end, and a time that is up. The
exit status is 0 where the gate is open; 1 for failed tests; 2 for a session without an end; 3 for the time.

A session writes what becomes of its tests into the file that `REMOTERUN_OUTCOMES` names (`outcomes.py`). Nothing but
Python is needed here: `make test` installs the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "REMOTERUN_OUTCOMES"
AGAIN = 25
"""So many tests are tried again at the most: where more fail, the fault is in what they share."""
PARTING = 60.0
"""Seconds that a session has to end by itself, and to clean up, once it is interrupted."""
SLOWEST = 10
PASSED, FAILED = 0, 1
"""Exit statuses of pytest, for a session that came to its end."""


@dataclass
class Outcomes:
    """What became of the tests of a session, as far as it came."""

    tests: list[str] = field(default_factory=list)
    """All that were to run."""
    running: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each that ran, with what it alone has prepared."""
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, list[str]] = field(default_factory=dict)
    """The last lines of the first failure of each."""
    over: int | None = None
    """Pytest's exit status; None where the session was cut off."""

    @classmethod
    def read(cls, path: Path) -> Outcomes:
        found = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                what = json.loads(line)
            except json.JSONDecodeError:  # it was cut off as it wrote this
                continue
            if "tests" in what:
                found.tests = what["tests"]
            elif "begins" in what:
                found.running.add(what["begins"])
            elif "ends" in what:
                found.running.discard(what["ends"])
            elif "over" in what:
                found.over = what["over"]
            else:
                found._add(**what)
        return found

    def _add(self, test: str, outcome: str, seconds: float, failed: list[str] | None) -> None:
        self.seconds[test] = self.seconds.get(test, 0.0) + seconds
        if outcome == "skipped":
            self.skipped.add(test)
        if failed is not None:
            self.failed.setdefault(test, failed)

    @property
    def unfinished(self) -> list[str]:
        """The tests that did not run to their end."""
        return [test for test in self.tests if test not in self.seconds or test in self.running]


class Terminated(Exception):
    """Somebody ends the gate (SIGTERM): its time is up, too."""


def terminated(*_: object) -> None:
    raise Terminated


def run(words: Sequence[str], until: float) -> tuple[Outcomes, int | None]:
    """Run a session of pytest: what became of its tests, and its exit status; None where the time was up before."""
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        file = Path(folder, "outcomes")
        process = subprocess.Popen(words, env={**os.environ, VARIABLE: str(file)}, start_new_session=True)
        status = None
        with suppress(subprocess.TimeoutExpired, Terminated):
            try:
                status = process.wait(max(until - time.time(), 0.0))
            finally:  # by ^C, too
                end(process)
        return Outcomes.read(file), status


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a group of processes as ^C does, and kill what is left of it after `PARTING` seconds."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(PARTING)
        except subprocess.TimeoutExpired:
            continue


def by_file(tests: Sequence[str]) -> Counter[str]:
    return Counter(test.partition("::")[0] for test in tests)


def said_of_time(outcomes: Outcomes) -> Iterator[str]:
    """Which tests ran before the time was up."""
    unfinished, whole = by_file(outcomes.unfinished), by_file(outcomes.tests)
    ran = len(outcomes.tests) - len(outcomes.unfinished)
    yield f"ci: the time is up: {ran} of {len(outcomes.tests)} tests ran"
    for test in sorted(outcomes.running):
        yield f"    was running: {test}"
    yield from (f"    {name}: {whole[name] - missing} of {whole[name]}" for name, missing in sorted(unfinished.items()))
    yield f"    all of: {' '.join(sorted(whole.keys() - unfinished.keys()))}"


def said_of_failures(title: str, failed: dict[str, list[str]]) -> Iterator[str]:
    if failed:
        yield f"ci: {title}: {len(failed)}"
    for test, lines in sorted(failed.items()):
        yield f"    {test}"
        yield from (f"        {line}" for line in lines)


def said_at_the_end(outcomes: Outcomes, began: float) -> Iterator[str]:
    """What a person wants to know first."""
    ran = len(outcomes.seconds)
    yield f"ci: {ran} tests ran; all in all {(time.time() - began) / 60:.0f} min. The slowest:"
    slowest = sorted(outcomes.seconds.items(), key=lambda each: -each[1])[:SLOWEST]
    yield from (f"    {seconds:4.0f} s  {test}" for test, seconds in slowest)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gate")
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("words", nargs="*", default=["make", "test"])
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    began = time.time()
    first, status = run(asked.words, asked.until)
    failed, said = first.failed, list[str]()
    came_to_its_end = first.seconds and first.over == (FAILED if failed else PASSED)
    if status is None:
        said = [*said_of_failures("failed", failed), *said_of_time(first)]
    elif not came_to_its_end or bool(status) is not bool(failed):
        status, said = 2, ["ci: the tests did not run to their end", *said_of_failures("failed", failed)]
    elif len(failed) > AGAIN:
        status, said = 1, list(said_of_failures(f"failed, more than {AGAIN}, so none is tried again", failed))
    elif failed:
        print(f"ci: {len(failed)} failed; tried once more, alone", flush=True)
        second, ended = run([sys.executable, "-m", "pytest", "-n", "0", *failed], asked.until)
        passed = second.seconds.keys() - second.failed.keys() - second.running
        flaky = {test: lines for test, lines in first.failed.items() if test in passed}
        failed = {test: second.failed.get(test, lines) for test, lines in first.failed.items() if test not in passed}
        status = None if ended is None else 1 if failed else 0
        said = list(said_of_failures("flaky: failed among the others, passed alone, to be mended", flaky))
        said += said_of_failures("failed twice, or not tried again", failed)
        said += said_of_time(second) if ended is None else []
    print(*said_at_the_end(first, began), *said, sep="\n")
    passed_in_all = len(first.seconds) - len(first.skipped) - len(failed)
    print(f"{passed_in_all} passed, {len(failed)} failed, {len(first.skipped)} skipped", flush=True)
    return 3 if status is None else status


if __name__ == "__main__":
    sys.exit(main())
