"""How a command starts: what it needs is imported, and little else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import remoterun.client
import remoterun.transfer
from remoterun.cli.app import COMMANDS, FILES
from remoterun.cli.commands import application
from tests.workshop import write_files


def test_the_table_of_commands_has_those_that_modules_register() -> None:
    app = application()
    found = {}
    for command in app.registered_commands:
        assert command.callback is not None
        found[command.name or command.callback.__name__] = [command.callback]
    for group in app.registered_groups:
        assert group.typer_instance is not None and group.typer_instance.registered_callback is not None
        below = [each.callback for each in group.typer_instance.registered_commands]
        found[str(group.name)] = [group.typer_instance.registered_callback.callback, *below]
    modules = {word: {one.__module__.rpartition(".")[2] for one in ones if one} for word, ones in found.items()}
    table = {word: FILES.get(word, word) for commands in COMMANDS.values() for word in commands}
    assert modules == {word: {module} for word, module in table.items()}
    assert len(table) - len(COMMANDS[""]) == 28


@pytest.mark.parametrize("package", [remoterun, remoterun.transfer])
def test_every_name_that_a_package_offers_is_found_on_its_use(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match=f"`{package.__name__}` has no attribute `nope`"):
        package.nope  # noqa: B018


RARE = (
    "client.runs.comparing",
    "client.live.ports",
    "client.live.live",
    "client.upkeep.upkeep",
    "client.upkeep.rented_hosts",
    "client.data.uploads",
)
"""What a run does not need."""


def started(words: list[str], home: Path) -> tuple[str, list[str], str]:
    """What a command prints, the modules that it has imported at its end, and what it says on stderr."""
    code = "import sys\nfrom remoterun.cli.main import main\nmain(sys.argv[1:])\nprint('imported', *sys.modules)"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}
    program = [sys.executable, "-c", code, *words]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=True)
    said, _, imported = done.stdout.rpartition("imported ")
    return said, imported.split(), done.stderr


@pytest.mark.parametrize(
    ("words", "not_imported"),
    [
        (["--version"], {"typer", "remoterun.errors"}),
        (["ps"], {"paramiko", "git", "boto3", "rich", "remoterun.source", "remoterun.transfer.sending"}),
        (["ps"], {"remoterun.transfer.fetching", "remoterun.client.data.uploads", "remoterun.cli.commands.run"}),
        (["logs", "1"], {"git", "boto3", "rich.markdown", "remoterun.source", "remoterun.transfer.sending"}),
        (["run", "--no-git", "--dry-run", "true"], {f"remoterun.{name}" for name in RARE}),
        (["machines"], {"paramiko", "git", "boto3", "remoterun.client.runs.runs", "remoterun.transfer.sending"}),
    ],
)
def test_a_command_does_not_import(words: list[str], not_imported: set[str], tmp_path: Path) -> None:
    _, imported, _ = started(words, tmp_path)
    assert "remoterun.cli.main" in imported and not not_imported.intersection(imported)


COUNTED = """
import sys
from remoterun.agent.shared.protocol import Link
from remoterun.cli.main import main
requests, open_stream = [], Link.open
Link.open = lambda self, name, *words, **more: requests.append(name) or open_stream(self, name, *words, **more)
status = main(sys.argv[1:])
ours = [name for name in sys.modules if name.partition(".")[0] == "remoterun"]
print("counted", status, ",".join(requests), ",".join(ours))
"""
"""Counts what a command asks of the agent, and the modules of ours that it loads."""


def test_what_a_run_on_this_machine_costs(tmp_path: Path) -> None:
    """Requests to its agent, modules of ours, processes of git; and nothing of the ledger of rented hosts."""
    work, calls = write_files(tmp_path / "work", {"a.txt": "a\n"}), tmp_path / "calls"
    wrapper = f'#!/bin/sh\necho "$@" >>{calls}\nexec {shutil.which("git")} "$@"\n'
    tools = write_files(tmp_path / "bin", {"git*": wrapper})
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)}
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "a.txt"], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=work, env=environment, check=True, timeout=30)
    calls.unlink()
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, "run", "-t", "local", "--framework", "none", "echo hi"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said, _, counted = done.stdout.rpartition("counted ")
    status, requests, modules = counted.split()
    assert (said, status) == ("hi\n", "0"), done.stderr
    assert len(requests.split(",")) <= 5, requests
    assert len(calls.read_text().splitlines()) <= 6, calls.read_text()
    assert len(modules.split(",")) <= 91, modules
    assert not {"remoterun.clouds.ledger", "remoterun.clouds.base", "boto3"}.intersection(modules.split(","))


@pytest.mark.parametrize("words", [["ls"], ["ps"], ["machines"], ["machines", "--all"], ["whoami"]])
def test_a_bucket_that_was_made_once_costs_a_shell_without_a_login_nothing(words: list[str], tmp_path: Path) -> None:
    """No call to AWS, not even its library; and no word about it."""
    (tmp_path / ".remoterun").mkdir(mode=0o700)
    (tmp_path / ".remoterun" / "config.toml").write_text('[aws]\nbucket = "made-once"\nregion = "us-east-1"\n')
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\nregion = us-east-1\n[profile work]\nsso_session = x\n")
    said, imported, warned = started(words, tmp_path)
    assert not {"boto3", "botocore"}.intersection(imported) and "error" not in warned, warned
    assert "credentials" not in warned and ("made-once" in said) == (words[-1] == "whoami")
