"""What a newcomer types first, at a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests import commands
from tests.e2e.conftest import Place
from tests.e2e.said import left, talk
from tests.workshop import until

WANTED = "python -c 'import tqdm, sys; print(tqdm.greeting)'"


@pytest.fixture
def index(plain: Place, tmp_path: Path) -> Place:
    """A place whose package index has one package."""
    with zipfile.ZipFile(tmp_path / "tqdm-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tqdm.py", "greeting = 'hello from tqdm'\n")
        wheel.writestr("tqdm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tqdm\nVersion: 1.0\n")
        wheel.writestr("tqdm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tqdm-1.0.dist-info/RECORD", "")
    plain.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    return plain


class TestPackages:
    def test_one_that_many_use_is_offered(self, index: Place) -> None:
        """Enter installs it; so does -y, where nobody is asked."""
        index.run("run", "--no-git", "true")
        shown, asked = "The code imports `tqdm`, which plain Python lacks.\r\n", "Install tqdm? (q: quit) [Y/n/q] "
        talk(index.spawn("run", "--no-git", WANTED), shown, None, asked, "", "hello from tqdm")
        done = index.run("run", "--no-git", "-y", WANTED)
        assert done.stdout == "hello from tqdm\n" and "With tqdm." in done.stderr
        refused = index.run("run", "--no-git", WANTED, status=1)
        assert "--pip tqdm   installs tqdm, and so does -y" in refused.stderr

    def test_one_that_may_be_a_strangers_is_doubted(self, index: Place) -> None:
        """A module of a file that is not sent must not become a stranger's package: Enter and -y do not install it."""
        terminal = index.spawn("run", "--no-git", "python -c 'import my_model'")
        shown = "`my_model` is not a package that many use: is it a file that is not sent?\r\n"
        talk(terminal, shown, None, "Install my_model? (q: quit) [y/N/q] ", "q", status=130)
        done = index.run("run", "--no-git", "-y", "python -c 'import my_model'", status=1)
        assert "--pip my_model   installs my_model\n" in done.stderr and "installing packages" not in done.stderr


def test_a_loss_is_shown_as_it_falls(plain: Place) -> None:
    """By `info` and `ps -v`, while the run goes on and after its end; by `diff` under the metric's name."""
    write = '\'{"step": 1, "name": "train_loss", "value": %s}\\n\''
    lines = "; ".join(f"printf {write} {value} >>logs/metrics.jsonl" for value in (8, 4, 2, 1))
    aside = f"mkdir -p logs/0; printf {write} 5 >logs/0/metrics.jsonl"  # of another training
    number = plain.run("run", "--no-git", "-b", f"{aside}; {lines}; echo written; sleep 1000").stdout.strip()
    plain.follow_until(number, "written")
    until(lambda: " → 1\n" in plain.run("info", number).stdout)  # who measures may have read a part of the lines
    for _ in range(2):
        assert "\nloss          █▄▂▁ 8 → 1\n" in plain.run("info", number).stdout
        assert " · █▄▂▁ 8 → 1" in plain.run("ps", "-v").stdout
        plain.run("stop", number)
        plain.run("wait", number, status=143)
    plain.run("run", "--no-git", "mkdir logs; printf " + write + " 7 >logs/metrics.jsonl")
    assert "- train_loss 1\n" in plain.run("diff", number, "last").stdout


def test_a_line_that_is_pasted_after_a_command_is_the_shells(plain: Place) -> None:
    """The command asks nothing and opens no pager then. An answer that was given before holds."""
    shell = pexpect.spawn(
        "bash", ["--norc", "-i"], cwd=str(plain.folder), env=plain.env, timeout=60, encoding="utf-8", dimensions=(3, 99)
    )
    shell.sendline("bind 'set enable-bracketed-paste off'; echo rea''dy")
    shell.expect("ready\r\n")
    plain.run("run", "-y", "seq 1000")
    pasted = {
        "run 'echo r''an'": "A next line was typed already: it is left to the shell.*Not sent.*ran\r\n",
        "run 'cat data/input.txt'": "-y sends what the command names",
        "secret set TOKEN": "nothing is asked, since a next line was typed already",
        "diff 1 2": "command.*echo ran",
    }
    for command, said in pasted.items():
        shell.send(f"{commands.REMOTERUN} {command}\necho ne''xt line\n")
        shell.expect(f"(?s){said}.*next line\r\n")
    shell.sendline(f"{commands.REMOTERUN} run 'cat data/input.txt'")
    shell.expect_exact("[Y/n/q] ")
    shell.send(f"\n{commands.REMOTERUN} run 'cat data/input.txt'\necho ne''xt line\n")
    shell.expect("(?s)Sent, too, as you answered before.*next line\r\n")
    left(shell)


class TestTheRightWord:
    def test_a_failed_run_says_why(self, plain: Place) -> None:
        """In a line with what to type, also where stderr is apart; the same line is in `info` and in its JSON."""
        why = "the command asks for input: `--stdin` sends what is typed here"
        for options in ((), ("--split",)):
            done = plain.run(
                "run", "--no-git", *options, "python -c 'input()'; code=$?; echo end; exit $code", status=1
            )
            assert (f"exit status 1\n  {why}\n" in done.stderr) is bool(options), "else its last line is another one"
        assert f"\nmessage       {why}\n" in plain.run("info", "last").stdout
        assert [run["message"] for run in plain.json("ps", "-a")] == [None, why]

    def test_an_ignored_file_comes_by_a_mount(self, plain: Place) -> None:
        (plain.folder / ".gitignore").write_text("data\n")
        said = plain.run("run", "-y", "--dry-run", "cat data/input.txt").stderr
        (mount,) = re.findall("names, is ignored: `-m (.*)` sends it", said)
        assert plain.run("run", "-y", "-m", mount, "cat data/input.txt").stdout.startswith("ROMEO:")

    def test_an_alert_that_nobody_gets(self, plain: Place) -> None:
        words = ("run", "-y", "--dry-run", "--alert", "loss > 4", "true")
        alone = "an alert is shown by `remoterun ui` alone: `--notify URL` sends it, too"
        assert alone in plain.run(*words).stderr
        assert alone not in plain.run(*words[:-1], "--notify", "https://127.0.0.1/x", "true").stderr


def test_what_remoterun_wrote_itself_is_not_asked_about(plain: Place) -> None:
    """Copies, also of one file to stdout, and reports are not sent; but if the command names them, or all is
    sent, or once they are changed."""
    subprocess.run(["git", "add", "."], cwd=plain.folder, env=plain.env, check=True)
    plain.run("run", "mkdir models; echo 1 >models/a; echo 2 >models/b; ln -s a models/c; echo 3 >step-1.txt")
    plain.run("cp", "runs/last/models", "my/model")
    line = "remoterun cp runs/last/models/a - >a.txt; remoterun report last >report.html"
    line += "; echo mine >notes.md; remoterun cp runs/last/models/a - >>notes.md"
    subprocess.run(["sh", "-c", line.replace("remoterun", commands.REMOTERUN)], cwd=plain.folder, env=plain.env)
    done = plain.run("run", "ls -R")
    assert not re.search("model|report", done.stdout)
    assert re.search("1 file is not tracked by git:\n  notes.md .*\nNot sent", done.stderr), "there is more in it"
    (plain.folder / "notes.md").unlink()
    (plain.folder / "new.txt").write_text("mine")
    done = plain.run("run", "-y", "cat new.txt; ls")
    assert "1 file is not tracked by git" in done.stderr and "report" not in done.stdout
    (plain.folder / "new.txt").unlink()
    assert plain.run("run", "--include-untracked", "ls").stdout.startswith("a.txt\ndata\nmy\n")
    asked = plain.run("run", "ls my/model", status=None).stderr
    assert re.search(r"3 files are not tracked by git, \d+ bytes:\n  my/model/a   2 bytes\n", asked)
    assert "`a.txt`, which the command names, is not" in plain.run("run", "cat a.txt", status=2).stderr
    (plain.folder / "my/model/b").write_text("3")
    assert "1 file is not tracked by git:\n  my/model/b   1 byte\n" in plain.run("run", "true").stderr


def test_the_skill_is_installed(plain: Place) -> None:
    file = Path(plain.run("help", "--agents", "--install").stdout.strip())
    text = file.read_text()
    assert file == Path(plain.env["HOME"], ".claude", "skills", "remoterun", "SKILL.md")
    assert text.startswith("---\nname: remoterun\ndescription: ") and text == plain.run("help", "--agents").stdout
    assert "did you mean `remoterun help --agents`?" in plain.run("skill", "--install", status=2).stderr


class TestFolderAsMount:
    def test_it_becomes_an_upload_and_that_version_is_mounted(self, plain: Place) -> None:
        """Under the folder's name; content that is there already makes no other version."""
        words = ("run", "-y", "-m", "./data:texts", "cat texts/input.txt")
        assert plain.run(*words).stdout.startswith("ROMEO:")
        (plain.folder / "data" / "input.txt").write_text("JULIET")
        done = plain.run(*words)
        assert done.stdout == "JULIET" and "data is uploads/data@2, 6 bytes" in done.stderr
        assert plain.run(*words).stdout == "JULIET"
        assert [upload["version"] for upload in plain.json("ls")] == [2]
        assert plain.run("run", "-y", "-m", "./data/input.txt:a/b", "cat a/b").stdout == "JULIET"
        assert plain.run("rerun", "1", "-m", "./data:texts").stdout == "JULIET"

    def test_a_dry_run_sends_nothing(self, plain: Place) -> None:
        done = plain.run("run", "--dry-run", "-m", "./data", "true")
        assert re.search(r"^upload     /.*/data, as uploads/data$", done.stdout, re.MULTILINE)
        assert plain.json("ls") == []

    def test_a_repository_can_not_send_what_is_here(self, plain: Place) -> None:
        """Only who types a folder means it: `remoterun.toml` might name one with keys."""
        (plain.folder / "remoterun.toml").write_text('mounts = ["~/:data"]\n')
        assert "`~/` is not a resource" in plain.run("run", "-y", "true", status=2).stderr

    def test_one_that_is_not_here(self, plain: Place) -> None:
        refused = plain.run("run", "-y", "-m", "./dota:data", "true", status=2)
        assert "error: there is no `./dota` here" in refused.stderr and "uploads/NAME:PATH" in refused.stderr


def cell(code: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": code}


@pytest.mark.timeout(600)
def test_a_notebook_is_executed(plain: Place) -> None:
    """Its cells are the log; executed, it is an output, also where a cell fails, as the run then does."""
    kernel = {"kernelspec": {"name": "my-conda", "display_name": "x", "language": "python"}}
    cells = [cell("print('from a cell')"), cell("40 + 2"), cell("raise ValueError('no')")]
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
    (plain.folder / "train.ipynb").write_text(json.dumps(notebook))
    named = re.compile(r"train.ipynb   \d+ bytes   \(the command names it\)")
    needed = "the command needs `train.ipynb`"
    talk(plain.spawn("run", "train.ipynb"), named, None, "[Y/a/n/q] ", "n", needed, status=2)
    subprocess.run(["git", "add", "."], cwd=plain.folder, env=plain.env, check=True)
    done = plain.run("run", "train.ipynb", status=1)
    said = done.stdout
    assert said.index("from a cell") < said.index("\n42\n") < said.index("ValueError: no")
    executed = json.loads(plain.run("cp", "runs/last/train.ipynb", "-").stdout)
    assert ["from a cell\n"] in [output.get("text") for each in executed["cells"] for output in each.get("outputs", ())]
