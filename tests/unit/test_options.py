"""The options of a run: made of the fields of `Asked`, read and shown in the same words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import remoterun.cli.commands.run  # noqa: F401 - makes the command, whose options these are
from remoterun.agent.shared.asked import PortSpec
from remoterun.cli.options import OPTIONS, command_of, options_of, parsed, with_values
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Asked, Mount
from tests.recorder import Recorded

TYPED: dict[str, Any] = {
    "machine": "box",
    "mounts": ["uploads/doom:data"],
    "env": ["A=1"],
    "secrets": ["KEY", "KEY=OTHER"],
    "pip": ["numpy"],
    "apt": ["ffmpeg"],
    "image": "me/mine:1",
    "framework": "python",
    "labels": ["x"],
    "gpus": "all",
    "timeout": "10m",
    "cpus": 4,
    "memory": "1.5g",
    "notify": ["HOOK", "https://hooks.example.org/x"],
    "spot": True,
    "attempts": 2,
    "max_hours": 1.5,
    "max_cost": 4.0,
    "ports": ["80:8080"],
    "split": True,
    "alerts": ["val_loss > 4 for 10m"],
    "metrics": ["loss=(?P<loss>.*)"],
}


def test_what_is_typed_is_read_and_shown_in_the_same_words(recorded: Recorded) -> None:
    asked = with_values(Asked("true"), parsed(TYPED))
    assert (asked.gpus, asked.timeout, asked.ports) == (ALL_GPUS, 600.0, (PortSpec(80, 8080),))
    assert (asked.env, asked.mounts) == ((("A", "1"),), (Mount.parse("uploads/doom:data"),))
    assert (asked.cpus, asked.memory) == (4, 1536 << 20)
    recorded.same(options_of(asked, ["-y", "--pip-req", "a b"]))
    assert "hooks.example.org" not in repr(asked), "an address is a secret"


def test_what_is_typed_again_takes_the_place_of_the_same() -> None:
    first = with_values(Asked("true"), parsed({"env": ["A=1", "B=1"], "notify": ["HOOK"], "pip": ["a"]}))
    then = with_values(first, parsed({"env": ["A=2"], "notify": ["none"], "pip": ["b", "a"]}))
    assert (then.env, then.notify, then.pip) == ((("B", "1"), ("A", "2")), (), ("a", "b"))
    assert parsed({"labels": ["", "a", " "]}) == {"labels": ("a",)} and parsed({"labels": [""]}) == {"labels": ()}
    image = with_values(with_values(first, {"framework": "python"}), parsed({"image": "me/mine:1"}))
    assert (image.framework, image.image) == (None, "me/mine:1")
    framework = with_values(image, parsed({"framework": "none"}))
    assert (framework.framework, framework.image) == ("none", None)


def test_what_is_refused(recorded: Recorded) -> None:
    recorded.cases(lambda typed: parsed(json.loads(typed)), UsageError)


def test_each_says_what_it_is() -> None:
    for row in OPTIONS.values():
        assert row.option.help.endswith("."), row.name
        assert (row.option.right is None) or row.option.what, row.name


def test_words_after_a_quoted_command_are_refused_with_the_right_line(recorded: Recorded) -> None:
    """The shell would be given one program of that name, on the wrong machine, and `--dry-run` would run it."""
    for words in (
        ["python -V", "-t", "box", "-b"],
        ["python t.py", "--dry-run"],
        ["python t.py", "--label=x", "--seed", "1"],
        ["cat a", "b"],
    ):
        with recorded.raises(UsageError, shlex.join(words)):
            command_of(words)


def test_options_of_ours_after_one_word_are_warned_of(capsys: pytest.CaptureFixture[str], recorded: Recorded) -> None:
    line = "./train.sh -b -t box --max-cost 5 x"
    assert command_of(line.split()) == line
    recorded.same(capsys.readouterr().err)


@pytest.mark.parametrize("flags", [["-t", "box", "--max-cost", "5"], ["-b", "--machine-type", "box"]])
def test_a_machine_after_one_word_is_refused_with_both_lines(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip would cost the run its machine and its limit; the same words of a command are said in quotes."""
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text('[machines.box]\nhost = "me@box"\n')
    with pytest.raises(UsageError, match="follows `./x.sh`, and names a machine") as caught:
        command_of(["./x.sh", *flags, "y"])
    ours, theirs = (caught.value.hint or "").splitlines()
    assert ours == shlex.join(["remoterun", "run", *flags, "./x.sh y"])
    command = f"./x.sh {shlex.join(flags)} y"
    assert theirs == f"remoterun run '{command}'   passes them to `./x.sh`"
    assert command_of([command]) == command
    assert command_of(["./x.sh", "-t", "5"]) == "./x.sh -t 5" and capsys.readouterr().err == ""
    assert command_of(["python", "x.py", "-t", "box"]) == "python x.py -t box"
    assert "`-t box` goes to `python`, which it follows" in " ".join(capsys.readouterr().err.split())


def test_options_of_a_program_are_not_warned_of(capsys: pytest.CaptureFixture[str], recorded: Recorded) -> None:
    def warned(line: str) -> str:
        words = shlex.split(line)
        assert command_of(words) == line and command_of([line]) == line
        return capsys.readouterr().err or "no warning"

    recorded.cases(warned)
