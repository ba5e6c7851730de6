"""How a command ends in a terminal."""

from __future__ import annotations

import pexpect

from tests.recorder import TRACEBACK


def ended(terminal: pexpect.spawn) -> int:
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert not TRACEBACK.search(terminal.before)
    assert terminal.exitstatus is not None
    return int(terminal.exitstatus)
