"""Runs that start when others have ended; the machine sees to it, and no client is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.agent.running.queues.line import OwnLine
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import After
from remoterun.agent.shared.states import Reason, RunState
from remoterun.errors import UsageError
from remoterun.model import MachineType, Run, RunRequest
from tests.workshop import Place, User, ended, until


def waits(file: Path, then: str = "true") -> RunRequest:
    """A command that ends once the file is there."""
    return RunRequest(f"until [ -e {file} ]; do sleep 0.02; done; {then}")


def note(user: User, run: Run, text: str) -> None:
    until(lambda: user.client.runs.get(run.number).note == text, what=lambda: str(user.client.runs.get(run.number)))


class TestOnItsMachine:
    """`place` is the home: no client takes part once the runs are handed over."""

    def test_it_waits_for_all_and_takes_nobodys_place_meanwhile(self, place: Place, tmp_path: Path) -> None:
        go = tmp_path / "go"
        first = place.submit(f"until [ -e {go} ]; do sleep 0.02; done; echo first", slots=2)
        second = place.submit(f"until [ -e {go} ]; do sleep 0.02; done; exit 3", slots=2)
        others = (After(first, 1), After(second, 2, True))
        key = place.submit("echo third", slots=2, after=others)
        until(lambda: place.run(key).status().note == "after run 1, and run 2 however it ends")
        assert not OwnLine(place.home).has_come(key)
        place.drop_session()
        for run in (key, first):
            place.lose_supervisor(run)
        place.session.ask(api.runs, api.RunKeys(None))
        go.touch()
        assert place.until_final(key)["state"] == "complete"
        assert place.log(key) == b"third\n"

    def test_how_the_other_one_ends(self, place: Place, tmp_path: Path) -> None:
        waits = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; "
        fails, completes = place.submit(f"{waits} exit 3"), place.submit(f"{waits} true")
        others = (After(fails, 7), After(fails, 7, True), After(completes, 8))
        refused, *run = (place.submit("echo ran", after=(other,)) for other in others)
        (tmp_path / "go").touch()
        status = place.until_final(refused)
        assert (status["state"], status["reason"], place.log(refused)) == ("failed", "after_failed", b"")
        assert status["message"] == "run 7 has ended: failed (exit status 3)"
        assert [(place.until_final(key)["state"], place.log(key)) for key in run] == [("complete", b"ran\n")] * 2

    def test_one_that_is_removed_once_it_has_completed(self, place: Place, tmp_path: Path) -> None:
        """A run that has its place in the line has no more need of it."""
        holder = place.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done", slots=1)
        place.until_state(holder, RunState.RUNNING)
        other = place.submit("true", slots=2)
        key = place.submit("true", slots=1, after=(After(other, 2),))
        until(lambda: OwnLine(place.home).has_come(key))
        place.session.ask(api.remove_run, api.RunKey(other))
        place.lose_supervisor(key)
        place.session.ask(api.runs, api.RunKeys(None))
        (tmp_path / "go").touch()
        assert place.until_final(key)["state"] == "complete"

    def test_it_can_be_stopped(self, place: Place, tmp_path: Path) -> None:
        other = place.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
        key = place.submit("true", after=(After(other, 1),))
        place.end(key, "stop")
        assert place.until_final(key)["reason"] == "stopped"
        (tmp_path / "go").touch()


class TestAsAUser:
    def test_a_chain(self, user: User, tmp_path: Path) -> None:
        client = user.client
        first = client.runs.submit(waits(tmp_path / "go"))
        second = client.runs.submit(RunRequest("echo second", after=(first.number,)))
        third = client.runs.submit(RunRequest("echo third", after=(second.number,)))
        note(user, third, f"after run {second.number}")
        until(lambda: client.runs.get(first.number).state is RunState.RUNNING)  # only then has it an exit status
        client.runs.kill(first.number)
        end = ended(client, third)
        assert (end.state, end.reason) == (RunState.FAILED, Reason.AFTER_FAILED)
        assert end.words == "a run that it waited for did not complete" and end.exit_status == 125
        assert end.message == f"run {second.number} has ended: failed"
        assert ended(client, first).reason is Reason.KILLED  # its exit status is known here
        with pytest.raises(UsageError, match=rf"run {first.number} has ended: killed .*, so a run that waits for it"):
            client.runs.submit(RunRequest("true", after=(first.number,)))
        assert ended(client, client.runs.submit(RunRequest("true", after_any=(first.number,)))).code == 0

    def test_one_whose_end_is_not_known_here_yet(self, user: User) -> None:
        first = user.client.runs.submit(RunRequest("exit 3"))
        user.place("one").until_final(first.key)
        with pytest.raises(UsageError, match=rf"run {first.number} has ended: failed .* 3\), so a run"):
            user.client.runs.submit(RunRequest("true", after=(first.number,)))

    def test_on_another_machine(self, user: User, tmp_path: Path) -> None:
        first = user.client.runs.submit(waits(tmp_path / "go"), machine="two")
        before = len(user.client.connections.registry.runs())
        with pytest.raises(UsageError, match="is on `two`, and what waits for it would be on `one`") as caught:
            user.client.runs.submit(RunRequest("true", after=(first.number,)))
        assert (caught.value.hint or "").startswith(f"remoterun wait {first.number} && remoterun run …")
        assert len(user.client.connections.registry.runs()) == before
        (tmp_path / "go").touch()
        ended(user.client, first)
        then = user.client.runs.submit(RunRequest("true", after=(first.number,)))
        assert ended(user.client, then).code == 0, "what has completed is not waited for, wherever it was"

    def test_on_the_machine_of_a_pool_that_has_it(self, user: User, tmp_path: Path) -> None:
        lab = MachineType("lab", pool=("one", "two"))
        user.config = replace(user.config, machines={**user.config.machines, "lab": lab})
        client = user.new_client()
        first = client.runs.submit(waits(tmp_path / "go"), machine="two")
        second = client.runs.submit(RunRequest("true", after=(first.number,)), machine="lab")
        assert second.where == "lab (two)"
        (tmp_path / "go").touch()
        assert ended(client, second).code == 0
