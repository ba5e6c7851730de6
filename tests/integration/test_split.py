"""What a command writes to stderr, apart from the log: `run --split`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.states import RunState
from remoterun.client import Client
from remoterun.client.runs.following import ALL, Item, LogBytes, Note, StateChange, Wanted
from remoterun.errors import HostError, UsageError
from remoterun.model import RunRequest
from tests.workshop import NOBODY, User, kill9, until

LINES = 60
PART = 15
COUNT = f"""
i=0
while [ $i -lt {LINES} ]; do
    i=$((i+1))
    echo line $i
    echo error $i >&2
    sleep 0.01
    if [ $((i % {PART})) = 0 ]; then until [ -e $i ]; do sleep 0.02; done; fi
done
exit 3
"""
"""After each part it waits for a file."""


class Seen:
    """What came of a run: each kind of bytes whole and once."""

    def __init__(self, starts: dict[bool, int] | None = None) -> None:
        self.starts = starts or {False: 0, True: 0}
        self.data = {False: b"", True: b""}
        self.ended = False

    def add(self, item: Item) -> None:
        if isinstance(item, LogBytes):
            assert not self.ended and item.offset == self.starts[item.stderr] + len(self.data[item.stderr])
            self.data[item.stderr] += item.data
        elif isinstance(item, StateChange):
            self.ended = item.run.final

    @property
    def both(self) -> tuple[bytes, bytes]:
        return self.data[False], self.data[True]


def both(client: Client, number: int, wanted: Wanted = ALL) -> tuple[bytes, bytes]:
    data = {False: b"", True: b""}
    for item in client.runs.follow(number, wanted):
        if isinstance(item, LogBytes):
            data[item.stderr] += item.data
    return data[False], data[True]


def lines(word: bytes, count: int) -> bytes:
    return b"".join(b"%s %d\n" % (word, number + 1) for number in range(count))


def kill_agent(user: User) -> None:
    kill9(int(user.client.machines.session(user.client.machines.get("one")).hello.pid))


def test_two_streams_here_and_when_the_machine_is_gone(user: User) -> None:
    command = "printf 'out 1\nout 2'; printf 'err 1\nerr 2' >&2; exit 3"
    run = user.client.runs.submit(RunRequest(command, split=True))
    seen = Seen()
    for item in user.client.runs.follow(run.number):
        seen.add(item)
    assert seen.ended and seen.both == (b"out 1\nout 2", b"err 1\nerr 2")
    assert both(user.client, run.number, Wanted(live=False, tail=1)) == (b"out 2", b"err 2")
    times = [
        item.time for item in user.client.runs.follow(run.number, Wanted(timed=True)) if isinstance(item, LogBytes)
    ]
    assert len(times) == 2 and None not in times
    logs = user.config.home / "logs"
    assert {file.name for file in logs.iterdir()} == {f"{run.key}.log", f"{run.key}.err"}

    again = user.client.runs.original(run.number).request
    assert again.split and again.command == command

    known = user.client.connections.registry.run(run.number)
    user.client.connections.registry.set_host(run, NOBODY, known.home_id)
    assert both(user.client, run.number) == (b"out 1\nout 2", b"err 1\nerr 2")
    assert both(user.client, run.number, Wanted(tail=1)) == (b"out 2", b"err 2")
    user.client.connections.registry.set_host(run, known.host, known.home_id)
    user.client.runs.remove(run.number)
    assert list(logs.iterdir()) == []


def test_the_kept_log_goes_as_a_whole(user: User) -> None:
    client = Client(replace(user.config, keep_logs=25))
    numbers = []
    for _ in range(2):
        run = client.runs.submit(RunRequest("printf %010d 0; printf %05d 0 >&2", split=True))
        assert [len(data) for data in both(client, run.number)] == [10, 5]
        numbers.append(run)
    kept = {file.name for file in (user.config.home / "logs").iterdir()}
    assert kept == {f"{numbers[1].key}.log", f"{numbers[1].key}.err"}
    client.close()


def test_every_byte_of_both_through_dead_agents(user: User) -> None:
    run = user.client.runs.submit(RunRequest(COUNT, split=True))
    seen, kills = Seen(), 0
    for item in user.client.runs.follow(run.number):
        seen.add(item)
        if seen.data[True] == lines(b"error", PART * (kills + 1)):
            kills += 1
            kill_agent(user)
            Path(user.place("one").run(run.key).work, str(PART * kills)).touch()
    assert kills == LINES // PART and seen.ended and seen.both == (lines(b"line", LINES), lines(b"error", LINES))


@pytest.mark.parametrize("split", [False, True])
def test_what_is_written_while_the_link_is_lost_follows_the_tail(user: User, tmp_path: Path, split: bool) -> None:
    """Also where nothing had come by then."""
    go = tmp_path / "go"
    command = f"echo old; echo old >&2; touch {tmp_path}/begun; until [ -e {go} ]; do sleep 0.02; done; echo new >&2"
    run = user.client.runs.submit(RunRequest(command, split=split))
    until((tmp_path / "begun").exists)
    items = user.client.runs.follow(run.number, Wanted(tail=0))
    while not (isinstance(item := next(items), StateChange) and item.state is RunState.RUNNING):
        pass
    kill_agent(user)
    assert isinstance(lost := next(items), Note) and lost.kind == "lost"
    go.touch()
    until(lambda: user.client.runs.get(run.number).final)
    found = [item for item in items if isinstance(item, LogBytes)]
    assert [(item.data, item.stderr) for item in found] == [(b"new\n", split)]


def test_any_part_of_them(user: User) -> None:
    """While the command writes, and when the files of its run are saved."""
    command = "printf 'out 1\nOUT 2\n'; printf 'err 1\n' >&2; until [ -e go ]; do sleep 0.02; done; echo out 3"
    runs = user.client.runs
    run = runs.submit(RunRequest(command, split=True))
    until(lambda: runs.log_part(run.number, 0, 99)[1] == 12)
    assert runs.log_part(run.number, 2, 6) == (2, 12, b"t 1\nOU") and runs.log_part(run.number, -4, 99)[2] == b"T 2\n"
    until(lambda: runs.log_part(run.number, 0, 99, "err") == (0, 6, b"err 1\n"))
    assert runs.search_log(run.number, "out") == api.Hits([api.Hit(0, "out 1"), api.Hit(6, "OUT 2")], 12, 12)
    Path(user.place("one").run(run.key).work, "go").touch()
    list(runs.follow(run.number))
    assert runs.log_part(run.number, 12, 1 << 30) == (12, 18, b"out 3\n")
    assert runs.search_log(run.number, "out", start=12).hits == [api.Hit(12, "out 3")]
    assert runs.search_log(run.number, "err 1", name="err").hits == [api.Hit(0, "err 1")]
    with pytest.raises(UsageError, match="a text of one line"):
        runs.search_log(run.number, "")
    user.client.connections.registry.set_host(run, NOBODY, user.client.connections.registry.run(run.number).home_id)
    assert runs.log_part(run.number, -6, 3) == (12, 18, b"out")
    assert runs.log_part(run.number, 4, 99, "err") == (4, 6, b"1\n")
    with pytest.raises(HostError):
        runs.search_log(run.number, "out")
