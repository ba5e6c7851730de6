"""The pipe between the client and what answers for a bucket: both ends are in this process."""

from __future__ import annotations

import threading

import pytest

from remoterun.agent.shared.protocol import Link, LinkClosed, Stream
from remoterun.buckets.pipe import MemoryPipe
from remoterun.buckets.workers import Workers
from remoterun.errors import LinkLost
from tests.workshop import until


def echo(stream: Stream, op: str, arguments: dict[str, object]) -> None:
    for frame in stream:
        stream.send(frame.body)
    stream.end(said=op)


def test_what_is_written_before_anybody_reads_waits() -> None:
    here = MemoryPipe()
    here.other.write(b"first", b" words")
    assert here.read(5) == b"first" and here.read(100) == b" words"


def test_links_talk_both_ways_and_large_things_pass() -> None:
    here = MemoryPipe()
    agent = Link(here.other.pump, here.other.write, echo)
    client = Link(here.pump, here.write)
    threads = [agent.start(), client.start()]
    stream = client.open("echo")
    data = bytes(range(256)) * 4096
    found = []

    def receive() -> None:
        found.extend(bytes(frame.body) for frame in stream)

    receiving = threading.Thread(target=receive)
    receiving.start()
    for _ in range(40):
        stream.send(data)
    stream.end()
    receiving.join(60)
    assert found == [data] * 40 and stream.result == {"said": "echo"}
    here.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("end", [0, 1])
def test_either_end_closes_both(end: int) -> None:
    closed: list[int] = []
    here = MemoryPipe(lambda: closed.append(1))
    read: list[bytes] = []
    reading = threading.Thread(target=lambda: read.append(here.read(10)))
    reading.start()
    ends = (here, here.other)
    ends[end].close()
    ends[end].close()
    ends[1 - end].close()
    reading.join(60)
    assert read == [b""] and closed == [1]
    for one in ends:
        with pytest.raises(LinkLost):
            one.write(b"x")


def test_what_the_taker_raises_ends_the_pump_and_the_writer_is_told() -> None:
    here = MemoryPipe()
    raised: list[BaseException] = []

    def taker(data: memoryview) -> None:
        raise ValueError("no frame")

    def pump() -> None:
        try:
            here.pump(taker)
        except ValueError as error:
            raised.append(error)

    pumping = threading.Thread(target=pump)
    pumping.start()
    until(lambda: here._taker is not None)
    with pytest.raises(LinkLost, match="no frame"):
        here.other.write(b"x")
    pumping.join(60)
    assert str(raised[0]) == "no frame"
    here.close()


def test_a_link_whose_pipe_ends_fails_its_streams() -> None:
    here = MemoryPipe()
    client = Link(here.pump, here.write)
    client.start()
    stream = client.open("echo")
    here.other.close()
    with pytest.raises(LinkClosed):
        stream.receive(60)


def test_jobs_are_done_several_at_once_and_in_order() -> None:
    workers = Workers(4)
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def job(number: int) -> int:
        with lock:
            running.append(number)
            most.append(len(running))
        until(lambda: len(most) >= 4)
        with lock:
            running.remove(number)
        return number * 2

    assert list(workers.each(job, range(50))) == [number * 2 for number in range(50)]
    assert max(most) == 4
    with pytest.raises(ZeroDivisionError):
        list(workers.each(lambda number: 1 // number, [1, 0, 1]))
    workers.close()
    with pytest.raises(LinkLost):
        workers.submit(job, 1)
    until(lambda: not [one for one in threading.enumerate() if one.name == "remoterun bucket"])
