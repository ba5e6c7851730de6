"""How a command starts: what it needs is imported, and little else."""

from __future__ import annotations

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
