"""Of a command that failed the user sees why, where its last line surely says so. Real programs write these texts."""

from __future__ import annotations

import time

import pytest

from remoterun.agent.running.causes import cause_of
from remoterun.agent.shared.states import Reason, RunState
from remoterun.model import MachineType, Run
from remoterun.ui.rows import row
from tests.recorder import Recorded


def test_what_programs_write_at_their_end(recorded: Recorded) -> None:
    """And what is not sure is not said."""

    def cause(case: str) -> str | None:
        log, _, code = case.rpartition("exit status ")
        found = cause_of(f"step 1\n{log}", None if code == "None" else int(code))
        assert found is None or ("s3cr3t" not in found and len(found) < 100)
        return found

    recorded.cases(cause)


@pytest.mark.parametrize(
    "text",
    ["python", ": 1", "rror: [Errno -2] ", "cat: '", "No such file or directory ", "a", "{0}", "\t [[", "\x1b[1m"],
)
def test_hostile_ends_are_read_in_bounded_time(text: str) -> None:
    began = time.process_time()
    assert cause_of(("\n" + text * (4000 // len(text))) * 4, 1) is None
    assert time.process_time() - began < 1


def test_a_name_of_a_log_is_short_and_on_one_line() -> None:
    found = cause_of(f"FileNotFoundError: [Errno 2] No such file or directory: '\u202e\x07{'x' * 500}'\n", 1)
    assert found is not None and found.isprintable() and len(found) < 200


def test_the_page_has_it_once_in_place_of_the_command_failed() -> None:
    why = "the command asks for input: `--stdin` sends what is typed here"
    failed = Run(1, "k", RunState.FAILED, MachineType("m"), "c", 1.0, reason=Reason.EXIT_NONZERO, code=1)
    for message, words in ((None, "the command failed"), (why, why)):
        shown = row(failed._replace(message=message), 2.0)
        assert (shown["why"], shown["note"]) == (words, None)
