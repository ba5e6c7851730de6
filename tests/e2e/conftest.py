"""A user's place: a home of their own, a git folder with a text, and the installed command."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pexpect
import pytest

from remoterun.agent.store.home import Home
from remoterun.cli.schema import SCHEMAS, schema
from remoterun.environments import context
from remoterun.model_page import libraries
from tests import commands
from tests.browser import missing_npm
from tests.commands import REMOTERUN
from tests.conftest import require
from tests.e2e.said import ended
from tests.lab import BASE_IMAGE, Lab, LabHost
from tests.workshop import User, lend

if TYPE_CHECKING:
    from tests.e2e.ui import Ui

TIMEOUT = 480  # the first run in Docker builds an image, beside tests in other processes
PATIENT = ("ps", "info", "ls", "logs", "top")
"""Commands that give a machine two seconds to answer, which is short where other tests keep this one busy."""
TEXT = "".join(
    f"ROMEO:\nThat I did love {'thee ' * (line % 3)}, line {line} of the play, is true.\n\n" for line in range(400)
)


@dataclass
class Place:
    """Where a user works: `folder` is the current folder, `env` the environment of every command."""

    folder: Path
    env: dict[str, str]
    transcript: list[str] = field(default_factory=list)
    patient: bool = True
    """Whether machines get a minute to answer, unless a command says how long."""
    seconds: float = TIMEOUT
    """Within which a command ends, or a terminal says what is expected."""

    def run(self, *words: str, status: int | None = 0, cwd: Path | None = None, env: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
        """Run the installed command without a terminal; a CompletedProcess with text. `status` None: any."""
        done = commands.run(self.patiently(words), cwd or self.folder, {**self.env, **(env or {})}, self.seconds)
        said = f"$ remoterun {' '.join(words)}\n{done.stdout}\n{done.stderr}\nstatus {done.returncode}"
        self.transcript.append(said)
        if status is not None:
            assert done.returncode == status, said
        return done

    def json(self, *words: str, status: int | None = 0) -> Any:
        """What a command prints with `--json`, which is held to its schema."""
        said = json.loads(self.run(*words, "--json", status=status).stdout)
        command = next((name for name in (" ".join(words[:2]), words[0]) if name in SCHEMAS), None)
        if command is not None and words[:2] != ("machines", "status"):
            jsonschema.validate(said, schema(command), format_checker=jsonschema.FormatChecker(["date-time"]))
        return said

    def spawn(self, *words: str) -> pexpect.spawn:
        """Run the installed command in a pseudo-terminal."""
        return pexpect.spawn(
            REMOTERUN,
            self.patiently(words),
            cwd=str(self.folder),
            env=self.env,
            timeout=self.seconds,
            encoding="utf-8",
            dimensions=(50, 160),
        )

    def patiently(self, words: Sequence[str]) -> list[str]:
        """What is typed so that a busy machine has the time to answer."""
        wait = self.patient and words and words[0] in PATIENT and "--wait" not in words
        return [words[0], "--wait", "1m", *words[1:]] if wait else list(words)

    def follow_until(self, number: str, pattern: str) -> None:
        """Follow a run's log until `pattern` is in it: one command, where looking again and again would keep a
        processor busy."""
        terminal = self.spawn("logs", number)
        terminal.expect(pattern)
        terminal.sendintr()
        ended(terminal)

    def commit(self, message: str) -> None:
        """Of all files of the folder."""
        git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
        for words in (["add", "."], ["commit", "-q", "-m", message]):
            subprocess.run([*git, *words], cwd=self.folder, env=self.env, check=True)

    def newest(self) -> dict[str, Any]:
        run: dict[str, Any] = self.json("ps", "-n", "1")[-1]
        return run


@contextmanager
def opened(
    words: Sequence[str], folder: Path, env: dict[str, str], command: str = "open", end: int = signal.SIGINT
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`remoterun open WORDS` at work: its first line, and the process. Unless it has ended, `end` ends it, with status
    0."""
    with subprocess.Popen(
        [REMOTERUN, command, *words],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            line = process.stdout.readline().strip()
            assert line, process.stderr.read()
            yield line, process
            if process.poll() is None:
                process.send_signal(end)
                assert process.wait(60) == 0, process.stderr.read()
        finally:
            process.kill()


def make_place(folder: Path, ssh_config: Path | None = None) -> Place:
    env = {
        "HOME": str(folder / "user"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "REMOTERUN_HOME": str(folder / "home"),
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    for name in (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "PIP_INDEX_URL",
        "PIP_DEFAULT_TIMEOUT",
        "PIP_FIND_LINKS",
        "NODE_EXTRA_CA_CERTS",
        "NPM_CONFIG_USERCONFIG",
    ):
        if name in os.environ:
            env[name] = os.environ[name]
    if ssh_config is not None:
        env["REMOTERUN_SSH_CONFIG"] = str(ssh_config)
    (folder / "user").mkdir()
    work = folder / "song"
    work.mkdir()
    place = Place(work, env)
    (work / "notes.txt").write_text("a tracked file\n")
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=work, env=env, check=True)
    place.commit("The first song")
    (work / "data").mkdir()
    (work / "data" / "input.txt").write_text(TEXT)
    return place


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> Iterator[Ui]:
    """The page of runs at work."""
    from tests.e2e.ui import serving

    with serving(tmp_path_factory.mktemp("ui"), environment) as ui:
        yield ui


@pytest.fixture(scope="session")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of engine `process`, as the product builds it: once for all processes that run tests."""
    together = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        together = together.parent
    folder = together / "tensorflow"
    with (together / "tensorflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            builder = make_place(folder)
            builder.run("machines", "add", "plain", "local", "--engine", "process")
            done = builder.run("run", "-y", "-t", "plain", "python -c 'import trainer; print(\"built\")'")
            assert done.stdout == "built\n" and "building the environment" in done.stderr
            (folder / "built").touch()
    (environment,) = (folder / "home" / "envs").glob("venv-*")
    return environment


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, tensorflow: Path) -> Place:
    """A place that is kept for the session, with the environment of engine `process`."""
    place = make_place(tmp_path_factory.mktemp("e2e"))
    environments = Path(place.env["REMOTERUN_HOME"], "envs")
    environments.mkdir(parents=True)
    (environments / tensorflow.name).symlink_to(tensorflow)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place of the test's own; nothing is installed there."""
    return make_place(tmp_path)


@pytest.fixture
def plain(place: Place, environment: Path) -> Place:
    """A `place` with a default machine `plain`: this one without Docker, where plain Python is installed already."""
    place.run("machines", "add", "plain", "local", "--engine", "process", "--slots", "2", "--default")
    lend(environment, Home.open(place.env["REMOTERUN_HOME"]))
    return place


@pytest.fixture(scope="session")
def libraries_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with ml5.js and p5, as npm brings them."""
    require(missing_npm())
    home = tmp_path_factory.mktemp("libraries")
    libraries(home)
    return home


@pytest.fixture(scope="module")
def new_user(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> Iterator[Callable[[], User]]:
    """`new_user()`: a user as `user` is, for all tests of a module."""
    with ExitStack() as stack:

        def make() -> User:
            return stack.enter_context(closing(User(tmp_path_factory.mktemp("user"), environment)))

        yield make


def bundled_image(base: str, variant: str) -> str:
    """The name that the product gives to the bundled image."""
    from remoterun.agent.shared.environment import Environment

    return Environment(base, variant, context()[0].digest).bundled_image


@pytest.fixture(scope="session")
def image_key() -> str:
    """The lab's name for a disk that has the bundled image."""
    return "tensorflow@" + bundled_image(BASE_IMAGE, "cpu").partition(":")[2]


@pytest.fixture(scope="session")
def prepared_host(lab: Lab, shared: Place, image_key: str) -> LabHost:
    """A host with the bundled image: as the product builds it in its first run there, or kept from then on, for other
    processes that run tests too."""
    shared.env["REMOTERUN_SSH_CONFIG"] = str(lab.ssh_config())
    with (lab.cache / "tensorflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = lab.has_image(image_key)
        host = lab.host("trained-a", image=image_key if kept else None).up()
        shared.run("machines", "add", "first", "trained-a", "--base-image", BASE_IMAGE, "-y")
        done = shared.run("run", "-y", "-t", "first", "python -c 'import trainer; print(\"built\")'")
        assert "built" in done.stdout
        assert ("building the environment" in done.stderr) is not kept
        reference = bundled_image(BASE_IMAGE, "cpu")
        assert host.image_id(reference)
        if not kept:
            lab.cache_image(host, reference, image_key)
    return host
