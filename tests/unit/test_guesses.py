"""The answer to a word that is not known: the right word, also for habits of other tools, or no guess at all."""

from __future__ import annotations

import functools
import shlex
import string
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from remoterun import machines
from remoterun.agent.shared.files import unless_held
from remoterun.cli import complete
from remoterun.cli.app import INSTEAD, parser_error
from remoterun.cli.commands import application
from remoterun.cli.main import main
from remoterun.cli.render import said_by_parser
from remoterun.clouds.aws import catalogue, front
from remoterun.config import Config
from remoterun.errors import NotFound
from remoterun.model import MachineType
from remoterun.parsing import did_you_mean
from tests.recorder import Recorded


@functools.cache
def command() -> Any:
    """The parser, made once: making it takes longer than all the questions to it here."""
    return get_command(application())


def refused(*words: str) -> tuple[str, str]:
    """(what is wrong, what was meant) of words that the parser refuses."""
    with pytest.raises(parser_error()) as caught, command().make_context("remoterun", [*words]) as context:
        command().invoke(context)
    return said_by_parser(caught.value, words)


def guess(hint: str) -> str:
    """The guess in a hint; "" without one."""
    return hint.partition("did you mean `")[2].partition("`?")[0]


def test_words_in_the_place_of_a_command(recorded: Recorded) -> None:
    """Slips of the finger, and words of docker, git, gh, hf, wandb, modal, kubectl, sky, Slurm and spell: for those of
    a line there is one guess. For the last ones there is none, as they only look like a command here."""
    recorded.cases(lambda words: "\n".join(sorted({guess(refused(typed)[1]) or "no guess" for typed in words.split()})))


def test_what_is_meant_is_there() -> None:
    commands: dict[str, Any] = command().commands
    for old, new in INSTEAD.items():
        first, *below = old.split()
        assert first not in commands or below, f"`{old}` is a command"
        assert not below or below[0] not in getattr(commands.get(first), "commands", {}), f"`{old}` is a command"
        first, *below = new.split()
        if old.split()[-1][0] != "-" and not new.endswith("."):
            inside = getattr(commands[first], "commands", {})
            assert not inside or not below or below[0] in inside or below[0] == "--all", new


def test_options_and_words_below_a_command(recorded: Recorded) -> None:
    """What other tools have, slips of the finger, what stands in the wrong place, and values of another kind."""
    recorded.cases(lambda line: "\n".join(refused(*shlex.split(line))))


def test_the_hint_that_is_shown(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("help uploads", "ps --jsno", "run --rm ls", "-t box run 'ls -l'", "run --max-cost lots ls"):
        assert main(shlex.split(line)) == 2
        recorded.same(capsys.readouterr().err, line)


def test_the_short_option_for_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("remoterun ")


def test_of_words_that_are_as_near_it_is_the_first() -> None:
    assert did_you_mean("rum", ["run", "rm"]) == "run" and did_you_mean("rum", ["rm", "run"]) == "rm"
    assert did_you_mean("force", ["forget"]) is None and did_you_mean("setup", ["stop"]) is None
    assert did_you_mean("doom_text", ["Doom-Texts", "doom"]) == "Doom-Texts"
    assert did_you_mean("", ["x"]) is None and did_you_mean("x", []) is None
    assert did_you_mean("x" * 10**5, ["x"]) is None


def slips(name: str) -> set[str]:
    """The words that differ from `name` by a letter that is missing, added or wrong behind the first one."""
    places = range(1, len(name))
    letters = "04x" + string.ascii_lowercase[:2]
    return {
        *(name[:at] + name[at + 1 :] for at in places),
        *(name[:at] + letter + name[at:] for at in (*places, len(name)) for letter in letters),
        *(name[:at] + letter + name[at + 1 :] for at in places for letter in letters),
    }


def test_a_guess_names_no_machine_that_is_dearer_than_another_as_near(tmp_path: Path) -> None:
    prices = catalogue.table().regions["us-east-1"]
    types = {**catalogue.NAMES, **{name: type for name, (type, _) in catalogue.GONE.items()}}
    near: dict[str, list[str]] = {}
    for name in types:
        for typed in slips(name) - types.keys():
            near.setdefault(typed, []).append(name)
    config = Config(tmp_path, ssh_config=tmp_path / "none")
    asked = [typed for typed, names in near.items() if len(names) > 1 and len(typed) > 2]
    assert {"t44", "l40"} <= {*asked}
    for typed in asked:
        with pytest.raises(NotFound) as caught:
            machines.resolve(typed, config)
        price = prices.get(types[guess(caught.value.hint or "")], 1e9)
        assert price <= min(prices.get(types[name], 1e9) for name in near[typed]), typed


def test_the_machines_that_are_known_are_all_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
) -> None:
    for name in front.CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    for name in front.CREDENTIAL_FILES:
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    config = Config(tmp_path, machines={"box": MachineType("box", "me@box")}, ssh_config=tmp_path / "none")
    for login in ("without a login", "with one"):
        for typed in ("t44", "=box", "Bxo", "nonsense"):
            with recorded.raises(NotFound, f"{typed}, {login}"):
                machines.resolve(typed, config)
        monkeypatch.setenv("AWS_PROFILE", "x")


def test_what_tab_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be rented from its first letter on; where nothing goes on, no file of this folder."""
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [name for name, _ in complete.machine_types("")] == ["local"]
    assert {"local", "aws", "t4"} <= {name for name, _ in complete.machine_types("t")}
    assert [number for number, _ in complete.active_runs("")] == ["last"]


def test_another_port_than_that_of_the_page_that_is_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path))
    (tmp_path / "ui.json").write_text('{"port": 8123, "address": "http://127.0.0.1:8123/x/"}')
    with unless_held(f"{tmp_path}/ui.json.lock", 1.0):
        assert main(["ui", "--no-browser", "--port", "80808"]) == 2
        assert "open already, at port 8123" in capsys.readouterr().err
        assert main(["ui", "--no-browser", "--port", "8123"]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:8123/x/\n"
