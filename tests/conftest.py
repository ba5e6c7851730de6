"""What every test may ask for: the lab and its hosts, made on first use.

Where this machine can't have them the test is skipped, or fails if REMOTERUN_NO_SKIPS=1, as in CI.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from remoterun.agent.shared.files import locked
from remoterun.agent.store.home import Home
from tests import outcomes
from tests.browser import browser, kept_tab, ml5, node_modules, tab  # noqa: F401
from tests.cloud.fixtures import cloud, cloud_of_session  # noqa: F401
from tests.lab import Lab, LabHost, LocalDocker, leavings
from tests.lab.local_docker import answers
from tests.recorder import HEARD, recorded  # noqa: F401
from tests.seaweed import bucket, store  # noqa: F401
from tests.workshop import Place, User, build_environment

# `quick` draws the same few examples each time; HYPOTHESIS_PROFILE=thorough draws many, and others each time.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=40, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

HERE = Path(__file__).parent

# The command line is started thousands of times, as an installed one is: its modules compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What is quick and tells most comes first; tests/bench is run by `python -m tests.bench`, never by pytest.
ORDER = ("unit", "contract", "lab", "cloud", "integration", "e2e")
# With several processes, these come first, so that none is left with a long one at the end. Of the first four, two need
# no lab, whose image may have to be made.
LONGEST = (
    "e2e/test_lesson.py",
    "e2e/test_session.py",
    "integration/test_slurm.py",
    "cloud/test_rented_runs.py",
    "integration/test_trainer.py",
    "e2e/test_browser.py",
    "cloud/test_aws_hosts.py",
    "integration/test_faults.py",
    "e2e/test_readme.py",
    "cloud/test_cloud_check.py",
    "e2e/test_example_node.py",
    "e2e/test_rhymes_page.py",
    "e2e/test_old_gpu.py",
    "integration/test_faults_local.py",
    "integration/test_trainer_model.py",
    "e2e/test_bad_input.py",
    "integration/test_renting.py",
    "cloud/test_images.py",
    "cloud/test_aws_kills.py",
    "integration/test_cuts.py",
    "integration/test_transfer.py",
    "e2e/test_cli.py",
    "e2e/test_upkeep.py",
    "cloud/test_roles.py",
    "e2e/test_ui.py",
    "e2e/test_ports.py",
    "e2e/test_newcomer.py",
    "cloud/test_policy.py",
    "e2e/test_wheel.py",
    "e2e/test_ui_views.py",
)
collect_ignore = ["bench"]

LAB = pytest.StashKey[Lab]()


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """The session's lab, without hosts yet."""
    require(Lab.missing())
    with Lab() as lab:
        pytestconfig.stash[LAB] = lab
        yield lab


@pytest.fixture(scope="session")
def host_a(lab: Lab) -> LabHost:
    """A host with Docker, shared by the session; whatever a test breaks of it is mended before the next test."""
    return lab.host("host-a").up()


@pytest.fixture(scope="session")
def host_b(lab: Lab) -> LabHost:
    """Another one."""
    return lab.host("host-b").up()


@pytest.fixture
def new_host(lab: Lab) -> Iterator[Callable[..., LabHost]]:
    """`new_host(**options)`: a host for this test alone, up, made with the options of `tests.lab.host.Setup`."""
    made: list[LabHost] = []

    def make(**options: Any) -> LabHost:
        number = next(number for number in range(1, 200) if f"extra-{number}" not in lab.hosts)
        made.append(lab.host(f"extra-{number}", **options))
        return made[-1].up()

    yield make
    for host in made:
        lab.discard(host)


@pytest.fixture
def kept_host(lab: Lab) -> Iterator[Callable[..., LabHost]]:
    """`kept_host(**options)`: as `new_host`, but one for all tests of the session that ask for the same options.
    Whatever a test breaks of it is mended before the next test."""
    used: list[LabHost] = []

    def get(**options: Any) -> LabHost:
        name = "kept-" + hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()[:6]
        used.append(lab.hosts.get(name) or lab.host(name, **options))
        return used[-1].up()

    yield get
    for host in used:
        host.mend()


@pytest.fixture(scope="session")
def local_docker(request: pytest.FixtureRequest) -> Iterator[LocalDocker]:
    """The Docker engine of this machine itself, with the base image where it can be made."""
    if Lab.missing() is not None and answers():  # a laptop with Docker and without root
        yield LocalDocker()
        return
    require(Lab.missing())
    lab: Lab = request.getfixturevalue("lab")
    with lab.local_docker() as engine:
        yield engine


def require(missing: str | None) -> None:
    """Skip the test for the reason given, if any; with REMOTERUN_NO_SKIPS=1 it fails instead."""
    if missing is None:
        return
    if os.environ.get("REMOTERUN_NO_SKIPS") == "1":
        pytest.fail(f"may not be skipped here: {missing}", pytrace=False)
    pytest.skip(missing)


def require_program(name: str) -> str:
    """The path of a program that a test needs; without it the test is skipped or fails, as `require` says."""
    path = shutil.which(name)
    require(None if path else f"{name} is not installed")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose environment, without packages, other homes of the session may use, also those of its other
    processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    home, built = folder / "environment", folder / "environment.built"
    with locked(f"{home}.lock"):
        if not built.exists():
            build_environment(home)
            built.touch()
    return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home in which nothing is yet, without an agent."""
    return Home.open(str(tmp_path / "home"))


@pytest.fixture
def place(tmp_path: Path, environment: Path) -> Iterator[Place]:
    """A home with its agent; the runs in it end with the test."""
    place = Place(tmp_path / "home", environment)
    yield place
    place.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("2m")`: a folder that is a file system of its own, of that size; unmounted after the test."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        require(f"a small file system can't be mounted: {done.stderr.strip()}" if done.returncode else None)
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def user(tmp_path: Path, environment: Path) -> Iterator[User]:
    """A client with two machines, `one` (the default) and `two`."""
    user = User(tmp_path, environment)
    yield user
    user.close()


@pytest.fixture(autouse=True)
def _mended(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    lab = request.config.stash.get(LAB, None)
    if lab is None:
        return
    for name in ("host_a", "host_b"):
        host = lab.hosts.get(name.replace("_", "-"))
        if name in request.fixturenames and host is not None:
            host.mend()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write what the program says into tests/recorded")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What a test has heard is compared once it has passed."""
    done = yield
    if HEARD in pyfuncitem.stash:
        pyfuncitem.stash[HEARD].compare()
    return done


def pytest_configure(config: pytest.Config) -> None:
    """A script that starts us in the background has us ignore ^C, and so would everything that we start. A reader of
    metrics has so much processor time, by a signal that ends who does not expect it: in a test, all threads count."""
    signal.signal(signal.SIGPROF, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    outcomes.pytest_configure(config)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before anything is started, also a worker of xdist."""
    config = session.config
    if not hasattr(config, "workerinput") and sys.platform == "linux":
        folder = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        until_its_end = contextlib.ExitStack()
        until_its_end.enter_context(leavings.recorded(folder))
        config.add_cleanup(until_its_end.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> tuple[int, int]:
    """Where a test's file stands in the order of all files."""
    inside = item.path.is_relative_to(HERE)
    name = item.path.relative_to(HERE).as_posix() if inside else ""
    folder = ORDER.index(name.partition("/")[0]) if name.partition("/")[0] in ORDER else -1
    if name in LONGEST and "PYTEST_XDIST_WORKER" in os.environ:
        return 0, LONGEST.index(name)
    return 1, folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is the unit that one of several processes (`make test WORKERS=2`) runs in order."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)
