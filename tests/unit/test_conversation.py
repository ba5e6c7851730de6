"""A program beside a run, and what is left of it once it has ended."""

from __future__ import annotations

import os
import threading
from typing import Any

from remoterun.agent.requests.exec import _ExecSession
from remoterun.agent.running.engines.wrapper import Program
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from tests.workshop import linked


def test_a_program_that_reads_nothing_ends_with_its_client() -> None:
    gone = threading.Event()
    started = threading.Event()

    def answer(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        conversation = _ExecSession(stream, Program(["/bin/sleep", "1000"], dict(os.environ), None, False), [24, 80])
        started.set()
        try:
            conversation.until_end()
        except (Cancelled, LinkClosed):
            gone.set()
        finally:
            conversation.close()

    with linked(answer) as (link, end):
        stream = link.open("execute")
        assert started.wait(60)
        for _ in range(4):  # more than a pipe takes
            stream.send(bytes(1 << 16))
        end()
        assert gone.wait(60)
