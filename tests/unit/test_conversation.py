"""A program beside a run, and what is left of it once it has ended."""

from __future__ import annotations

import os
import select
import threading
from typing import Any

from remoterun.agent.requests.exec import _ExecSession
from remoterun.agent.running.engines.wrapper import Program
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from tests.workshop import linked


def test_a_client_that_goes_after_the_end_writes_into_no_other_file() -> None:
    """The number of a file that was closed is soon that of another one."""
    ended, cut, looked = threading.Event(), threading.Event(), threading.Event()
    found: list[bool] = []

    def answer(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        reader, writer = os.pipe()
        before = set(threading.enumerate())
        conversation = _ExecSession(stream, Program(["/bin/true"], dict(os.environ), None, False), [24, 80])
        assert conversation.until_end() == 0
        listening = [thread for thread in set(threading.enumerate()) - before if thread.name == "remoterun program"]
        conversation.close()
        others = [os.dup(writer) for _ in range(8)]
        ended.set()
        cut.wait(60)
        for thread in listening:
            thread.join(60)
        ready, _, _ = select.select([reader], [], [], 0)
        found.append(bool(ready))
        looked.set()
        for end in [reader, writer, *others]:
            os.close(end)

    with linked(answer) as (link, end):
        link.open("execute")
        assert ended.wait(60)
        end()
        cut.set()
        assert looked.wait(60)
    assert found == [False]


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
