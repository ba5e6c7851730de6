"""How a command starts: what it needs is imported, and little else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import remoterun.client
import remoterun.transfer
from remoterun.cli.commands import MODULES, application


def test_the_table_of_modules_has_the_commands_that_they_register() -> None:
    app = application()
    found: dict[str, list[str]] = {module: [] for module in MODULES}
    for command in app.registered_commands:
        assert command.callback is not None
        found[command.callback.__module__.rpartition(".")[2]].append(command.name or command.callback.__name__)
    for group in app.registered_groups:
        assert group.typer_instance is not None and group.typer_instance.registered_callback is not None
        callback = group.typer_instance.registered_callback.callback
        assert callback is not None and group.name is not None
        found[callback.__module__.rpartition(".")[2]].append(group.name)
    assert found == {module: list(names) for module, names in MODULES.items()}


@pytest.mark.parametrize("package", [remoterun, remoterun.client, remoterun.transfer])
def test_every_name_that_a_package_offers_is_found_on_its_use(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match=f"`{package.__name__}` has no attribute `nope`"):
        package.nope  # noqa: B018


@pytest.mark.parametrize(
    ("words", "not_imported"),
    [
        (["--version"], {"typer", "remoterun.errors"}),
        (["ps"], {"paramiko", "git", "boto3", "rich", "remoterun.source", "remoterun.transfer.sending"}),
        (["ps"], {"remoterun.transfer.fetching", "remoterun.client.uploads", "remoterun.cli.commands.run"}),
        (["logs", "1"], {"git", "boto3", "rich.markdown", "remoterun.source", "remoterun.transfer.sending"}),
        (["machines"], {"paramiko", "git", "boto3", "remoterun.client.runs", "remoterun.transfer.sending"}),
    ],
)
def test_a_command_does_not_import(words: list[str], not_imported: set[str], tmp_path: Path) -> None:
    code = "import sys\nfrom remoterun.cli.main import main\nmain(sys.argv[1:])\nprint('imported', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = done.stdout.rpartition("imported ")[2].split()
    assert "remoterun.cli.main" in imported and not not_imported.intersection(imported)
