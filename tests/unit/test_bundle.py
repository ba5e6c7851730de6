"""The agent as one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import remoterun
from remoterun.hosts.bundle import FLAGS, AgentBundle, agent_bundle


def test_the_same_sources_give_the_same_bytes() -> None:
    first = agent_bundle()
    again = agent_bundle.__wrapped__()
    assert again is not first and again.data == first.data
    assert again.file_name == first.file_name == f"{first.digest}.pyz"
    for other in ({**first.sources, "more.py": b""}, {**first.sources, "__main__.py": b"pass"}):
        assert AgentBundle(other).digest != first.digest


def started(program: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *FLAGS, str(program), *words], input=b"", capture_output=True, timeout=60)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    program = tmp_path / agent_bundle().file_name
    program.write_bytes(agent_bundle().data)
    return program


def test_its_command_line(program: Path, tmp_path: Path) -> None:
    for words in ((), ("serve",), ("serve", "home", "x"), ("what", "--home", str(tmp_path / "h"))):
        done = started(program, *words)
        assert done.returncode == 2 and b"usage" in done.stderr and not done.stdout
    assert started(program, "serve", "--home", str(tmp_path / "h")).returncode == 0
    (tmp_path / "file").touch()
    done = started(program, "serve", "--home", str(tmp_path / "file"))
    assert done.returncode == 3 and b"can't be made" in done.stderr and b"Traceback" not in done.stderr


def test_it_is_unpacked_once_and_started_from_there(program: Path, tmp_path: Path) -> None:
    folder, words = tmp_path / agent_bundle().digest, ("serve", "--home", str(tmp_path / "h"))
    first = started(program, *words)
    assert first.returncode == 0 and folder.is_dir() and not list(folder.rglob("*.pyc"))
    again = started(program, *words)
    assert again.stdout[:20] == first.stdout[:20] and again.returncode == 0
    assert list(folder.rglob("serve.*.pyc")), "it was read from there, and compiled"
    (folder / "agent" / "serve.py").write_text("raise SystemExit(7)")
    assert started(program, *words).returncode == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([program.name, folder.name, "h"])


def test_it_starts_itself_as_it_was_started(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    top = str(Path(remoterun.__file__).parents[1])
    program.write_text(
        f"import sys\nsys.path.insert(0, {top!r})\n"
        "from remoterun.agent.running.supervision import agent_command\nprint(agent_command())"
    )
    words = [sys.executable, *FLAGS, str(program)]
    said = subprocess.run(words, capture_output=True, timeout=60, check=True, text=True).stdout
    assert ast.literal_eval(said) == words
