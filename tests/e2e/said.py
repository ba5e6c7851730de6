"""What commands say when they refuse, and how one ends in a terminal."""

from __future__ import annotations

import re
from typing import Any

import pexpect

from tests.e2e.conftest import Place

TRACEBACK = re.compile("Traceback|has a fault")


def ended(terminal: pexpect.spawn) -> int:
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert not TRACEBACK.search(terminal.before)
    assert terminal.exitstatus is not None
    return int(terminal.exitstatus)


MESSAGE = re.compile(r"^error: (.*)$", re.MULTILINE)
HINT = re.compile(r"^hint: (.*)$", re.MULTILINE)


def refused(place: Place, status: int, message: str, hint: str | None, *words: str, **options: Any) -> str:
    """Run a command that has to be refused so; what it said."""
    done = place.run(*words, status=status, **options)
    assert not TRACEBACK.search(done.stderr), done.stderr
    assert done.stdout == "", "an error is not data"
    said = MESSAGE.search(done.stderr)
    assert said and re.search(message, said[1]), done.stderr
    assert not said[1].endswith("."), "no full stop"
    hinted = HINT.search(done.stderr)
    if hint is None:
        assert hinted is None, done.stderr
    else:
        assert hinted and re.search(hint, hinted[1]), done.stderr
    return str(done.stderr)
