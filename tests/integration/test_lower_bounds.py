"""The oldest versions that pyproject.toml allows work: a run from start to end, and the tests of what uses them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import require
from tests.workshop import User

TOP = Path(__file__).parents[2]
TESTS = ("unit/test_interrupt", "unit/test_config", "unit/test_ssh_config", "integration/test_ssh_pipe")

pytestmark = pytest.mark.index


def lower_bounds() -> list[str]:
    """`typer==0.20` for `typer>=0.20`, and so on."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    found = []
    for requirement in project["dependencies"]:
        bound = re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", requirement)
        assert bound is not None, f"`{requirement}` has no lower bound"
        found.append(f"{bound[1]}=={bound[2]}")
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with the oldest versions, whose other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("oldest")
    (folder / "constraints.txt").write_text("\n".join(lower_bounds()) + "\n")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    done = subprocess.run(
        [*install, "--disable-pip-version-check", "-c", str(folder / "constraints.txt"), str(TOP)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    unreachable = re.search(r"NewConnectionError|NameResolutionError|ConnectTimeoutError", done.stderr)
    require("the package index can't be reached" if unreachable else None)
    assert done.returncode == 0, done.stderr
    (site_packages,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    of_the_tests = [path for path in sys.path if path.endswith("-packages")]
    (site_packages / "tests.pth").write_text("\n".join(of_the_tests) + "\n")  # searched after its own
    return python


def run(words: Sequence[str | Path], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_from_start_to_end(python: Path, user: User, tmp_path: Path) -> None:
    remoterun = python.with_name("remoterun")
    installed = run([python, "-m", "pip", "freeze"], tmp_path).lower().splitlines()
    for bound in lower_bounds():
        assert any(line.startswith(bound.lower()) for line in installed), f"{bound} of {installed}"
    assert run([remoterun, "--version"], tmp_path).startswith("remoterun ")
    work = tmp_path / "work"
    work.mkdir()
    (work / "made").write_text("by git")
    run(["git", "init", "-q"], work)
    run(["git", "add", "made"], work)
    run(["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "-q", "-m", "one"], work)
    home = {"REMOTERUN_HOME": str(tmp_path / "laptop")}
    folder = str(user.place("one").folder)
    run([remoterun, "machines", "add", "one", "local", "--engine", "process", "--home", folder], work, **home)
    assert run([remoterun, "run", "-t", "one", "cat made && echo"], work, **home) == "by git\n"
    assert '"complete"' in run([remoterun, "ps", "--json"], work, **home)


def test_the_tests_of_what_uses_them(python: Path) -> None:
    files = [f"tests/{name}.py" for name in TESTS]
    run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files], TOP)
