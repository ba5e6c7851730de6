"""The entry point: from words to a command, and from an exception to a message and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from remoterun import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Everything that is raised on purpose becomes one line and a hint."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"] and not any(word.startswith("-") for word in words):
        words = [*words[1:], "--help"]
    if words in (["--version"], ["-V"], ["version"]):  # asked by scripts; needs nothing
        print(f"remoterun {__version__}")
        return 0
    status = 130
    try:
        from remoterun.cli.interrupt import terminate_as_interrupt

        terminate_as_interrupt()
        _have_standard_streams()
        status = _guarded(words)
    except KeyboardInterrupt:  # while modules are imported, or a second one
        pass
    if argv is None:
        from remoterun.cli.interrupt import end_at_once

        end_at_once()
    return status


def _guarded(words: list[str]) -> int:
    from remoterun.cli import render
    from remoterun.errors import RemoterunError

    try:
        status = _dispatch(words)
        render.finish()
        return status
    except RemoterunError as error:
        render.error(error)
        return error.exit_status
    except KeyboardInterrupt:
        render.line("")
        return 130
    except render.ReaderGone:
        return 141
    except Exception as error:  # noqa: BLE001 - nobody shall see a traceback who didn't ask for it
        if os.environ.get("REMOTERUN_DEBUG"):
            raise
        try:
            render.finish()
        except RemoterunError as unwritten:  # by the parser, which prints its help itself
            render.error(unwritten)
        except render.ReaderGone:
            return 141
        else:
            render.fault(error)
        return 125


def _have_standard_streams() -> None:
    """A closed stdin, stdout or stderr reads and writes nothing, instead of what is opened next."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _dispatch(words: list[str]) -> int:
    import typer
    from typer.main import get_command

    from remoterun.cli import complete, render
    from remoterun.cli.app import parser_error
    from remoterun.cli.commands import application

    command = get_command(application(words))
    try:
        if "_REMOTERUN_COMPLETE" in os.environ:  # the shell asks what could come next
            complete.only_harmless()
            command.main(args=words, prog_name="remoterun")
        if not words:
            from remoterun.cli.commands.help import first_page

            first_page()
            return 0
        with command.make_context("remoterun", [*words]) as context:  # `main` would take ^C and broken pipes from us
            status = command.invoke(context)
        return status if isinstance(status, int) else 0
    except typer.Exit as end:
        return int(end.exit_code)
    except parser_error() as error:
        render.usage(error, words)
        return 2


if __name__ == "__main__":
    sys.exit(main())
