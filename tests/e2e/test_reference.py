"""The reference has every command, option, exit status, setting and public name of the library."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import remoterun
from remoterun import Client, Job, errors, project
from remoterun.agent.shared.records import options_in
from remoterun.cli.main import main
from remoterun.cli.options import parsed
from remoterun.errors import NotFound
from remoterun.model import Asked
from tests.reference import commands

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "remoterun" / "cli" / "REFERENCE.md").read_text()


def test_below_each_command_is_what_its_help_says() -> None:
    """In a process of its own, as a command is: what tests before this one imported or set is not in it."""
    printed = subprocess.run([sys.executable, "-m", "tests.reference", "--print"], cwd=ROOT, capture_output=True)
    assert printed.stdout.decode() == REFERENCE, "python -m tests.reference"


def test_its_tables_can_be_read() -> None:
    rows = [line for line in REFERENCE.splitlines() if line.startswith("|")]
    assert rows and not [cell for row in rows for cell in row.split(" | ") if len(cell) > 200]


def test_every_long_option_of_a_short_one() -> None:
    for name, command in commands().items():
        for parameter in command.params:
            long = [option for option in parameter.opts if option.startswith("--")]
            assert not parameter.opts[0].startswith("-") or long, f"{name}: {parameter.opts} has no long form"


def test_every_command_has_help_and_an_example() -> None:
    for name, command in commands().items():
        assert command.help, name
        if not hasattr(command, "commands"):
            assert f"Example:\n  {name} " in (command.epilog or ""), name
        assert len(command.get_short_help_str(200)) <= 64, f"{name}: cut in the list of commands at 80 columns"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} is not explained"


def test_help_is_in_users_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No types of the parser's; one wording for the same thing; `-h` of each command, though `info` takes `-hot`."""
    for name in commands():
        assert main([*name.split()[1:], "-h"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"Usage: {name} "), name
        assert "x>=" not in said and "[required]" not in said and "…..." not in said, said
        assert not re.search(r"Repeat(?!\s+for\s+more)", said), said
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path))
    with pytest.raises(NotFound):
        commands()["remoterun info"].main(["last", "-hot"], standalone_mode=False)


def test_every_exit_status() -> None:
    table = REFERENCE.partition("## Exit statuses")[2].partition("\n## ")[0]
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RemoterunError)]
    for status in {kind.exit_status for kind in kinds} | {1, 130, 137, 141, 143}:
        assert re.search(rf"^\| {status} \|", table, re.MULTILINE), status


def test_every_setting() -> None:
    from remoterun.clouds.aws.front import Settings
    from remoterun.config import ArchivePlace, Limits, settings

    table = REFERENCE.partition("```toml")[2].partition("```")[0]
    others = [key for kind in (Settings, Limits, ArchivePlace) for key in kind.__dataclass_fields__]
    own = ("host", "provider", "types", "default", "notify", "notice", "keep")
    for key in (*own, *settings(), *others):
        assert re.search(rf"^(# )?{key} = ", table, re.MULTILINE), key


def test_every_setting_of_a_repository(tmp_path: Path) -> None:
    """In an example that is taken."""
    example = re.findall(r"```toml\n(machine = .*?)```", REFERENCE, re.DOTALL)[0]
    typed = project.parse(example, tmp_path / "remoterun.toml").typed
    assert {name for name, option in options_in(Asked).items() if option.shared} == set(typed)
    parsed({**typed, "requirements": None})


def public(kind: type) -> list[str]:
    return [
        name for name, thing in vars(kind).items() if not name.startswith("_") and (callable(thing) or thing.__doc__)
    ]


def test_every_public_name_is_in_the_reference() -> None:
    library = REFERENCE.partition("## The library")[2]
    names = [f"{kind.__name__}.{name}" for kind in (Client, Job) for name in public(kind)]
    assert len(names) > 12
    for name in [*remoterun.__all__, *names]:
        assert re.search(rf"`{re.escape(name)}`", library), name


def test_what_troubleshooting_quotes_is_really_said() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "remoterun").rglob("*.py"))
    table = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
    said = [row[2:].partition(" | ")[0] for row in table.splitlines() if row.startswith("| ")]
    quoted = [text for cell in said for text in re.findall("`([^`]+)`", cell) if " " in text]
    assert len(quoted) > 9
    for text in quoted:
        for part in filter(None, re.split(r"\s*…\s*", text)):
            assert part in sources, part
