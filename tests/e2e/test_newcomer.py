"""What a newcomer types first, at a terminal."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pexpect
import pytest

from tests.e2e.conftest import Place

WANTED = "python -c 'import tqdm, sys; print(tqdm.greeting)'"


@pytest.fixture
def plain(place: Place, tmp_path: Path) -> Place:
    """This machine without Docker, and a package index that has one package."""
    place.run("machines", "add", "plain", "local", "--engine", "process", "--default")
    with zipfile.ZipFile(tmp_path / "tqdm-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tqdm.py", "greeting = 'hello from tqdm'\n")
        wheel.writestr("tqdm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tqdm\nVersion: 1.0\n")
        wheel.writestr("tqdm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tqdm-1.0.dist-info/RECORD", "")
    place.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    return place


def ended(terminal: pexpect.spawn) -> int:
    terminal.expect(pexpect.EOF)
    terminal.close()
    return int(terminal.exitstatus)


class TestPackages:
    def test_one_that_many_use_is_offered(self, plain: Place) -> None:
        """Enter installs it; so does -y, where nobody is asked."""
        plain.run("run", "--no-git", "true")
        terminal = plain.spawn("run", "--no-git", WANTED)
        terminal.expect_exact("The code imports `tqdm`, which plain Python lacks.\r\n")
        terminal.expect_exact("Install tqdm? (q: quit) [Y/n/q] ")
        terminal.sendline("")
        terminal.expect("hello from tqdm")
        assert ended(terminal) == 0
        done = plain.run("run", "--no-git", "-y", WANTED)
        assert done.stdout == "hello from tqdm\n" and "tqdm is installed." in done.stderr
        refused = plain.run("run", "--no-git", WANTED, status=1)
        assert "--pip tqdm   installs it, and so does -y" in refused.stderr

    def test_one_that_may_be_a_strangers_is_doubted(self, plain: Place) -> None:
        """A module of a file that is not sent must not become a stranger's package: Enter and -y do not install it."""
        terminal = plain.spawn("run", "--no-git", "python -c 'import my_model'")
        terminal.expect_exact("`my_model` is not a package that many use: is it a file that is not sent?\r\n")
        terminal.expect_exact("Install my_model? (q: quit) [y/N/q] ")
        terminal.sendline("q")
        assert ended(terminal) == 130
        done = plain.run("run", "--no-git", "-y", "python -c 'import my_model'", status=1)
        assert "--pip my_model   installs it\n" in done.stderr and "installing packages" not in done.stderr


def test_a_loss_is_shown_as_it_falls(plain: Place) -> None:
    """By `info` and `ps -v`, while the run goes on and after its end; by `diff` under the metric's name."""
    write = '\'{"step": 1, "name": "train_loss", "value": %s}\\n\''
    lines = "; ".join(f"printf {write} {value} >>logs/metrics.jsonl" for value in (8, 4, 2, 1))
    number = plain.run("run", "--no-git", "-b", f"mkdir logs; {lines}; echo written; sleep 1000").stdout.strip()
    plain.follow_until(number, "written")
    for _ in range(2):
        assert "\nloss          █▄▂▁ 8 → 1\n" in plain.run("info", number).stdout
        assert " · █▄▂▁ 8 → 1" in plain.run("ps", "-v").stdout
        plain.run("stop", number)
        plain.run("wait", number, status=143)
    plain.run("run", "--no-git", "mkdir logs; printf " + write + " 7 >logs/metrics.jsonl")
    assert "- train_loss 1\n" in plain.run("diff", number, "last").stdout


class TestGuideLeavesNoMess:
    def test_a_copy_in_the_repository_may_be_ignored(self, plain: Place) -> None:
        """The line that is shown, typed, is the end of it; where git tracks something, none is shown."""
        plain.run("run", "-y", "-t", "plain", "mkdir models; echo 1 >models/a; echo 2 >models/b")
        said = plain.run("cp", "runs/last/models", "my/model").stderr
        (line,) = re.findall(r"^  (echo /my/model/ >>\.gitignore)   keeps it out of what runs", said, re.MULTILINE)
        subprocess.run(["sh", "-c", line], cwd=plain.folder, check=True)
        assert ".gitignore" not in plain.run("cp", "runs/last/models", "my/model", "-y").stderr
        subprocess.run(["git", "add", "."], cwd=plain.folder, env=plain.env, check=True)
        assert "untracked" not in plain.run("run", "-y", "true").stderr
        assert ".gitignore" not in plain.run("cp", "runs/last", "data").stderr
        (plain.folder / "below").mkdir()
        below = Place(plain.folder / "below", plain.env)
        assert "  echo /below/x/ >>../.gitignore   keeps" in below.run("cp", "runs/1/models", "x").stderr

    def test_a_name_that_a_shell_or_git_would_read_is_not_typed(self, plain: Place) -> None:
        plain.run("run", "-y", "mkdir models; echo 1 >models/a")
        assert ".gitignore" not in plain.run("cp", "runs/1/models", "$(touch x)").stderr
        assert ".gitignore" not in plain.run("cp", "runs/1/models", "a*").stderr

    def test_the_skill_is_installed(self, plain: Place) -> None:
        file = Path(plain.run("help", "--agents", "--install").stdout.strip())
        text = file.read_text()
        assert file == Path(plain.env["HOME"], ".claude", "skills", "remoterun", "SKILL.md")
        assert text.startswith("---\nname: remoterun\ndescription: ") and text == plain.run("help", "--agents").stdout
        assert "hint: remoterun help --agents --install" in plain.run("skill", "--install", status=2).stderr
