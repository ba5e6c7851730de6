"""What is said and typed in a terminal."""

from __future__ import annotations

import re
import signal

import pexpect

from tests.recorder import TRACEBACK

INTERRUPT = "^C"


def ended(terminal: pexpect.spawn) -> int:
    terminal.expect(pexpect.EOF)
    terminal.wait()  # it has let go of its terminal: `close` kills what has not ended half a second later
    terminal.close()
    assert not TRACEBACK.search(terminal.before), terminal.before
    assert terminal.exitstatus is not None
    return int(terminal.exitstatus)


def left(terminal: pexpect.spawn) -> None:
    """Close a terminal whose shell goes on."""
    terminal.kill(signal.SIGKILL)
    terminal.wait()  # however long that takes: `close` alone fails after half a second
    terminal.close()


def talk(terminal: pexpect.spawn, *turns: str | re.Pattern[str] | None, status: int = 0) -> str:
    """What is awaited, and what is typed then (None: nothing), in turns up to the command's end, with this status; what
    came behind the last text that was awaited."""
    for awaited, answer in zip(turns[::2], (*turns[1::2], None), strict=False):
        if isinstance(awaited, str):
            terminal.expect_exact(awaited)
        else:
            terminal.expect(awaited.pattern)  # over several lines
        if answer == INTERRUPT:
            terminal.sendintr()
        elif answer is not None:
            terminal.sendline(answer)
    assert ended(terminal) == status, terminal.before
    return str(terminal.before)
