"""The library, as the README shows it: jobs of real agents, from their start to the files that they made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import remoterun
from remoterun import Client, Job, RemoterunError, snapshot
from remoterun.errors import AlreadyExists, NotFound, UsageError
from tests.workshop import User, until, write_files

LOOP = "until [ -e {go} ]; do sleep 0.02; done"


@pytest.fixture
def client(user: User) -> Iterator[Client]:
    with Client(user.config) as client:
        yield client


def test_what_is_public() -> None:
    assert dir(remoterun) == ["Client", "Job", "RemoterunError", "__version__", "snapshot"]
    assert remoterun.Job is Job and issubclass(UsageError, RemoterunError)


def test_from_a_folder_to_files(client: Client, tmp_path: Path) -> None:
    write_files(tmp_path / "here", {"work.sh": 'cat data/words; echo "$A"; mkdir models; echo w >models/w'})
    data = client.upload(write_files(tmp_path / "data", {"words": "one\ntwo\n"}), "doom", "two")
    source = snapshot(tmp_path / "here", no_git=True)
    job = client.run("sh work.sh", machine="two", mounts={"data": data}, env={"A": "last"}, source=source)
    assert list(job.logs()) == ["one", "two", "last"]
    assert (job.wait(), job.status, job.exit_status) == (0, "complete", 0)
    assert job.files == ["models/w"]
    job.copy("models", tmp_path / "copied")
    assert (tmp_path / "copied" / "w").read_text() == "w\n"
    (tmp_path / "copied" / "w").write_text("mine\n")
    with pytest.raises(AlreadyExists) as caught:
        job.copy("models", tmp_path / "copied")
    assert caught.value.hint == "overwrite=True overwrites it"
    job.copy("models", tmp_path / "copied", overwrite=True)
    assert (tmp_path / "copied" / "w").read_text() == "w\n"
    assert [each.number for each in client.jobs()] == [job.number] == [client.job("last").number]
    with pytest.raises(NotFound):
        client.job(job.number + 1)


def test_words_lists_and_names(client: Client, tmp_path: Path) -> None:
    """A command as a list of words, mounts as a list, and an upload without a name."""
    data = client.upload(write_files(tmp_path / "two words", {"words": "one\n"}) / "words", "first")
    assert client.upload(write_files(tmp_path / "second", {"words": "two\n"})) == "uploads/second"
    with pytest.raises(UsageError, match="is not a name") as caught:
        client.upload(tmp_path / "two words")
    assert caught.value.hint == "name=two-words"
    mounts = [f"{data}:in", "uploads/second"]
    job = client.run(["cat", "in/words", "second/words", "a b"], source=None, mounts=mounts, labels=["night"])
    assert job.command == "cat in/words second/words 'a b'"
    assert job.wait() == 1 and list(job.logs())[:2] == ["one", "two"]
    again = client.run("true", source=None, mounts="uploads/second:x")  # type: ignore[arg-type]
    assert [each.number for each in client.jobs()] == [again.number, job.number] and client.jobs(1)[0].wait() == 0


def test_its_status_is_that_of_now(client: Client, tmp_path: Path) -> None:
    job = client.run(f"echo up; {LOOP.format(go=tmp_path / 'go')}; exit 3", source=None)
    until(lambda: job.status == "running")
    assert job.exit_status is None
    with pytest.raises(TimeoutError, match="has not ended within 0.1 s"):
        job.wait(0.1)
    (tmp_path / "go").touch()
    assert job.wait() == 3 == job.exit_status and job.status == "failed"


def test_it_is_stopped_or_killed(client: Client) -> None:
    stopped, killed = (client.run("exec sleep 1000", source=None, labels=("night",)) for _ in range(2))
    until(lambda: stopped.status == killed.status == "running")
    stopped.stop()
    killed.kill()
    assert (stopped.wait(), killed.wait()) == (143, 137)
    assert (stopped.status, killed.status) == ("stopped", "killed")


def test_a_log_is_read_on_from_a_byte(client: Client) -> None:
    job = client.run("printf 'one\\ntw\\303\\266\\nthree'", source=None)
    job.wait()
    lines = job.logs()
    assert next(lines) == "one" and lines.offset == 4
    lines.close()
    rest = job.logs(offset=lines.offset)
    assert list(rest) == ["twö", "three"] and rest.offset == 14
    assert list(job.logs(follow=False, offset=14)) == []


def test_following_is_closed_from_another_thread(client: Client, tmp_path: Path) -> None:
    """Also while it waits for a machine that is away; no thread of it remains."""
    job = client.run(f"echo up; {LOOP.format(go=tmp_path / 'go')}", source=None)
    before = set(threading.enumerate())
    for _ in range(3):
        lines, seen = job.logs(), []
        thread = threading.Thread(target=lambda lines=lines, seen=seen: seen.extend(lines))  # type: ignore[misc]
        thread.start()
        until(lambda lines=lines: lines.offset == 3)  # type: ignore[misc]
        lines.close()
        thread.join(60)
        assert not thread.is_alive() and seen == ["up"]
        lines.close()
    until(lambda: set(threading.enumerate()) <= before)
    (tmp_path / "go").touch()
    assert job.wait() == 0


def test_what_would_not_be_sent_is_refused(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `remoterun run` refuses it where nobody is there to answer."""
    from tests.workshop import git

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RemoterunError, match="git"):
        client.run("true")
    write_files(tmp_path, {"a.py": "print(1)\n", "data/in": "x"})
    git(tmp_path, "init")
    for command, mounts, refused in (("python3 a.py", {}, True), ("cat data/in", {"data": "uploads/x"}, False)):
        with pytest.raises(UsageError if refused else RemoterunError, match="not tracked by git" if refused else "x"):
            client.run(command, mounts=mounts)
    with pytest.raises(UsageError, match=r"the command starts `b\.py`, which is not here"):
        client.run("python3 b.py")
    with pytest.raises(TypeError, match="did you mean `timeout`?"):
        client.run("true", source=None, tiemout=3)  # type: ignore[call-arg]
    for mounts in (["./x:data"], "data", {"uploads/x": "data"}):
        with pytest.raises(UsageError, match="is not a resource") as caught:
            client.run("true", source=None, mounts=mounts)  # type: ignore[arg-type]
        assert "a resource is uploads/NAME" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="is empty"):
        client.run([], source=None)
    with pytest.raises(RemoterunError) as git_error:
        snapshot(tmp_path.parent)
    assert "no_git=True)` sends the folder as it is" in (git_error.value.hint or "")
    assert client.jobs() == [], "what is refused has no number"
