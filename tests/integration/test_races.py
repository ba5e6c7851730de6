"""A home, a registry or a folder in which several work at once, and homes whose process is killed at any moment."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.files import locked
from remoterun.agent.shared.paths import SafeFolder
from remoterun.agent.shared.spec import MountSpec, ResourceRef
from remoterun.agent.shared.tree import TreeError
from remoterun.agent.store import leases, outputs
from remoterun.agent.store.home import Home
from tests.homes import DAY, blobs, check, collect, damage, missing, put, send, sound, upload, whole
from tests.workshop import NO_PACKAGES, Files, Place, call, create_run, read_files, served, sha256, spec_of, tree_of

BESIDE = """
import json, sys
from tests.homes import *
from tests.workshop import *
home = Home.open(sys.argv[1])
print(flush=True)
"""
KILLED = """
import sys
from remoterun.agent.store import outputs
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.check import Check
home = Home.open(sys.argv[1])
print(flush=True)
%s
"""
COLLECT_ALWAYS = """
passes = freed = 0
with open(f"{home.path}.said", "w", buffering=1) as said:
    while True:
        freed += collect(home, keep=1).counts.get("blobs", 0)
        passes += 1
        print(passes, freed, file=said)
"""
CHECK_ALWAYS = """
with open(f"{home.path}.said", "w", buffering=1) as said:
    while True:
        print(check(home), file=said)
"""
MANY: Files = {f"d{n % 7}/f{n}{'*' if n % 3 == 0 else ''}": os.urandom(3000) for n in range(60)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(str(tmp_path / "home"))


@contextlib.contextmanager
def beside(home: Home, body: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `body`, with the names of `tests.homes`; it is killed in the end."""
    words = [sys.executable, "-c", BESIDE + textwrap.dedent(body), home.path]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def said(home: Home) -> list[str]:
    """The whole lines that a process has said so far, which collects or checks."""
    file = Path(f"{home.path}.said")
    return file.read_text().split("\n")[:-1] if file.exists() else []


def progress(home: Home) -> tuple[int, int]:
    """(passes, blobs freed) so far of a process that collects."""
    passes, freed = said(home)[-1].split() if said(home) else "00"
    return int(passes), int(freed)


def turns(least: int, enough: Callable[[], bool]) -> Iterator[int]:
    """So many turns, and more until there was enough of a race; fails after three minutes."""
    deadline = time.monotonic() + 180
    for turn in itertools.count():
        if turn >= least and enough():
            return
        assert time.monotonic() < deadline, "there was no race"
        yield turn


def killed(body: str, after: float, *arguments: str) -> None:
    """Run `body` in a process and kill it `after` seconds from when it begins."""
    process = subprocess.Popen([sys.executable, "-c", KILLED % body, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()


def test_a_home_opened_by_many_at_once(tmp_path: Path) -> None:
    body = f"from remoterun.agent.store.home import Home; print(Home.open({str(tmp_path / 'h')!r}).id)"
    words = [sys.executable, "-c", body]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(6)]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1


def test_a_registry_made_by_many_at_once(tmp_path: Path) -> None:
    body = (
        "import sys; from pathlib import Path; from remoterun.registry import Registry;"
        "from remoterun.model import MachineType, new_key\n"
        "registry = Registry(Path(sys.argv[1]))\n"
        "for _ in range(15):\n"
        "    run = registry.add_run(new_key(), MachineType('m'), 'c', 1.0)\n"
        "    print(run.number)\n"
    )
    file = str(tmp_path / "registry.db")
    started = [subprocess.Popen([sys.executable, "-c", body, file], stdout=subprocess.PIPE) for _ in range(8)]
    numbers = [int(line) for process in started for line in process.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(1, 121)) and [process.returncode for process in started] == [0] * 8


def test_a_link_that_appears_while_files_land(tmp_path: Path) -> None:
    """Somebody swaps a folder for a link that points out, again and again, while files land."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (root / "a/b").mkdir(parents=True)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                os.rename(root / "a", root / "kept")
                os.symlink(outside, root / "a")
                os.unlink(root / "a")
                os.rename(root / "kept", root / "a")
            except OSError:
                pass

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(1500):
            with SafeFolder(str(root)) as landing:
                try:
                    folder, name = landing.place(f"a/b/{number}")
                    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
                except (TreeError, FileNotFoundError):
                    pass
    finally:
        stop.set()
        thread.join()
    assert [path for path in outside.rglob("*") if path != outside / "b"] == []


class TestKilledAtAnyMoment:
    @pytest.mark.parametrize("seed", range(2))
    def test_commit_upload(self, home: Home, seed: int) -> None:
        chance = random.Random(seed)
        body = """
while True:
    for number in range(60):
        home.uploads.commit("doom", home.blobs.tree(sys.argv[2 + number % 2]))
        home.uploads.remove_version("doom", sys.argv[3 - number % 2])
"""
        digests = []
        for files in (MANY, {**MANY, "one/more": b"x"}):
            manifest = put(home, files)
            digests.append(home.blobs.put(manifest.encode()))
        for _ in range(4):
            killed(body, chance.random() * 0.06, home.path, *digests)
            sound(home)
        versions = home.uploads.versions("doom")
        assert len({item["version"] for item in versions}) == len(versions)
        home.uploads.commit("doom", home.blobs.tree(digests[0]))
        home.uploads.commit("doom", home.blobs.tree(digests[1]))
        assert home.uploads.stored("doom").about["digest"] == digests[1]
        sound(home)

    @pytest.mark.parametrize("seed", range(2))
    def test_save_outputs(self, home: Home, seed: int) -> None:
        """Whatever the moment: nothing is lost, no mode changes, and in the end the outputs are there, once."""
        chance = random.Random(seed)
        source = put(home, {"same": b"same", "d0/old": b"old"})
        run = create_run(home, spec_of(), source)
        home.checkout(source, run.work, private=True)
        wanted: Files = {**MANY, "empty/in": None, "link": "-> same"}
        for path, content in wanted.items():
            place = Path(run.work, path.rstrip("*"))
            place.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                place.mkdir()
            elif isinstance(content, str):
                place.symlink_to(content[3:])
            else:
                place.write_bytes(content)
                place.chmod(0o755 if path.endswith("*") else 0o644)
        body = "run = home.run(sys.argv[2])\noutputs.save(home, run)"
        for _ in range(8):
            killed(body, chance.random() * 0.03, home.path, run.key)
            sound(home)
            if os.path.exists(run.outputs_file):
                break
        else:
            manifest, special = outputs.save(home, run)
            assert special == []
        stored = outputs.saved(run)
        assert stored is not None
        assert stored.manifest().encode() == tree_of(wanted)[0].encode()
        assert read_files(Path(run.out)) == wanted


class TestGc:
    def test_between_the_question_and_the_commit(self, home: Home) -> None:
        """What a client was told to be there, or has sent, stays until it has committed, however old it is."""
        here, new, other = b"here" * 100, b"new" * 100, b"other" * 100
        for data in (here, other):
            home.blobs.put(data)
        with served(home) as link:
            assert missing(link, here, new) == [(1, 0)]
            send(link, new)
            with beside(home, "print(json.dumps(collect(home, after=9 * DAY).kept))") as process:
                (kept,) = process.stdout.read().splitlines()
            assert json.loads(kept)["blobs"]["bytes"] == 700
            assert blobs(home) == {sha256(here), sha256(new)}
            manifest = tree_of({"here": here, "new": new})[0]
            assert call(link, "commit_upload", manifest.encode(), name="doom")["created"]
            assert os.listdir(home.leases) == [], "it needs no protection any more"
        sound(home)

    def test_a_client_that_is_gone(self, home: Home) -> None:
        """What it has sent stays a day for its next try."""
        body = """
        with served(home) as link:
            data = b"x" * 1000
            missing(link, data)
            send(link, data)
            print("sent", flush=True)
            sys.stdin.read()
        """
        with beside(home, body) as process:
            assert process.stdout is not None and process.stdout.readline() == "sent\n"
            assert collect(home, after=9 * DAY).parts == {}
            process.kill()
            process.wait()
        assert collect(home).kept["blobs"]["bytes"] == 1000
        assert collect(home, after=leases.CUT + 5, dry_run=True).freed == 1000
        assert collect(home, after=leases.CUT + 5).freed == 1000
        assert os.listdir(home.leases) == []

    def test_uploads_never_fail(self, home: Home) -> None:
        """Two processes: one deletes its upload and makes it again, of blobs that come and go; one collects."""
        chance = random.Random(7)
        pool = [b"%d" % number * 50 for number in range(60)]
        with beside(home, COLLECT_ALWAYS), served(home) as link:
            for _ in turns(150, lambda: progress(home)[0] > 5 and progress(home)[1] > 50):
                files: Files = {f"f{number}{'*' if number % 5 == 0 else ''}": data
                                for number, data in enumerate(chance.sample(pool, 20))}  # fmt: skip
                upload(link, "doom", files)
                assert read_files(Path(home.uploads.stored("doom").folder)) == files
                if chance.random() < 0.7:
                    home.uploads.remove("doom")
        sound(home)

    def test_runs_never_fail(self, place: Place) -> None:
        """Real runs, with a mount whose upload is removed at once, and with outputs, while a process collects."""
        home = place.home
        context, contents = tree_of(NO_PACKAGES)
        with beside(home, COLLECT_ALWAYS), served(home) as link:
            keys = []
            for turn in turns(12, lambda: progress(home)[0] > 5):
                version = upload(link, "data", {"text": b"text %d" % turn, "tool*": b"tool %d" % turn})
                files: Files = {"main": b"main %d" % turn}
                every = [*contents.values(), context.encode(), *tree_of(files)[1].values()]
                with place.session.stream(api.missing, api.Nothing()) as asking:
                    asking.send(bytes.fromhex("".join(map(sha256, every))))
                    asking.end()
                    asking.finish()
                for data in every:
                    home.blobs.put(data)
                where = ResourceRef("upload", "data", digest=version["version"]["digest"])
                pinned = MountSpec("uploads/data", "data", "data", where)
                command = (
                    f"cat data/text main > out; cp data/tool run{turn}; chmod +x run{turn}; seq {turn * 1000} > seq"
                )
                keys.append(place.submit(command, files, mounts=(pinned,)))
                home.uploads.remove("data")
            for turn, key in enumerate(keys):
                assert place.until_final(key)["state"] == "complete", place.run(key).events()
                made = place.outputs(key)
                assert made["out"] == b"text %dmain %d" % (turn, turn) and made[f"run{turn}*"] == b"tool %d" % turn
        collect(home)
        assert not home.blobs.has(sha256(b"text 0")), "the mounts of runs that have ended pin no files"
        sound(home)

    def test_while_blobs_are_unlinked_nobody_is_told_that_they_are_there(self, home: Home) -> None:
        home.blobs.put(b"x")
        body = "with served(home) as link: print(missing(link, b'x'), flush=True)"
        with contextlib.ExitStack() as batch:
            batch.enter_context(locked(home.lock("blobs"), patience=0))
            with beside(home, body) as process:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.5)
                os.unlink(home.blobs.path(sha256(b"x")))
                batch.close()
                assert process.communicate(timeout=60)[0] == "[(0, 0)]\n"


class TestCheck:
    def test_uploads_that_come_and_go(self, home: Home) -> None:
        """What is removed while it is looked at is not damage."""
        chance = random.Random(3)
        pool = [b"%d" % number * 50 for number in range(40)]
        with beside(home, CHECK_ALWAYS), served(home) as link:
            for _ in turns(60, lambda: len(said(home)) > 5):
                files: Files = {f"d{number}/f*": data for number, data in enumerate(chance.sample(pool, 15))}
                upload(link, "doom", files)
                if chance.random() < 0.5:
                    home.uploads.remove("doom")
                if chance.random() < 0.3:
                    collect(home, keep=1)
        assert set(said(home)) == {"[]"}
        sound(home)

    @pytest.mark.parametrize("seed", range(2))
    def test_killed_at_any_moment(self, home: Home, seed: int) -> None:
        """The next one ends what it began, nothing whole is lost, and an upload makes the rest whole."""
        chance = random.Random(seed)
        many: Files = {f"d{number % 5}/f{number}*": b"%d" % number * 300 for number in range(40)}
        home.uploads.commit("doom", put(home, many))
        home.uploads.commit("other", put(home, many))
        for data in tree_of(many)[1]:
            damage(home.blobs.path(data))
        for turn in range(6):
            killed("Check(home, True, lambda **_: None).run()",
                   chance.random() * 0.1 + turn * 0.03, home.path)  # fmt: skip
        check(home)
        assert all(read_files(Path(home.uploads.folder, name, "1")) == many for name in ("doom", "other"))
        for path in Path(home.uploads.folder).rglob("*"):
            assert not path.name.endswith(".remoterun"), "no temporary name is left"
        assert sorted(os.listdir(home.damaged)) == sorted(tree_of(many)[1])
        for name in ("doom", "other"):
            assert home.uploads.commit(name, put(home, many))[1], "an upload replaces what is damaged"
        check(home)
        collect(home, after=1e6)
        whole(home)
