"""What is installed from a wheel is whole: the command, the agent, the trainer and the image's recipe."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from remoterun.model_page.libraries import PAGE, page_file
from tests.e2e.conftest import Place

TOP = Path(__file__).parents[2]
PAGE_FOLDER = "remoterun/_bundle/examples/lstm-browser/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(TOP)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("remoterun-*.whl"))


def test_it_carries_the_trainer_and_the_recipe(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("docker/Dockerfile", "docker/requirements-cpu.txt", "trainer/train.py", "trainer/generate.py"):
        assert f"remoterun/_bundle/{name}" in names
    assert "remoterun_log.py" in names
    page = {name.removeprefix(PAGE_FOLDER) for name in names if name.startswith(PAGE_FOLDER)}
    assert page == {*PAGE, "package.json", "package-lock.json"}, "nothing that npm brings"
    assert not any(name.startswith("tests/") for name in names)


def test_installed_it_has_the_environment_of_the_checkout(wheel: Path, tmp_path: Path, place: Place) -> None:
    """The same tree, so the same image: a user who upgrades builds nothing anew. What it needs of others is that of the
    tests: test_lower_bounds installs it."""
    from remoterun.environments import context
    from remoterun.hosts.bundle import agent_bundle

    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python3.*/site-packages")
    (site_packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    page = [
        str(python),
        "-I",
        "-c",
        "from remoterun.model_page.libraries import page_file; print(page_file('index.html'))",
    ]
    found = subprocess.run(page, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout.strip()
    assert Path(found).is_relative_to(tmp_path) and Path(found).read_bytes() == page_file("index.html").read_bytes()
    code = (
        "from remoterun_log import log; log(loss=1);"
        "from remoterun.environments import context; from remoterun.hosts.bundle import agent_bundle;"
        "print(context()[0].digest, agent_bundle().digest)"
    )
    said = subprocess.run([str(python), "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert said.stdout.split() == [context()[0].digest, agent_bundle().digest], said.stderr
    command = str(python.parent / "remoterun")
    listed = subprocess.run([command, "ps"], env=place.env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0 and "There is no run yet" in listed.stderr
