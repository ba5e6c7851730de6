"""The entry point: from words to a command, and from an exception to a message and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from remoterun import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Everything that is raised on purpose becomes one line and a hint."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:  # asked by scripts; needs nothing
        print(f"remoterun {__version__}")
        return 0
    from remoterun.cli import render
    from remoterun.errors import RemoterunError

    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except RemoterunError as error:
        render.error(error)
        return error.exit_status
    except KeyboardInterrupt:
        render.line("")
        return 130
    except BrokenPipeError:  # `remoterun logs 16 | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _dispatch(words: list[str]) -> int:
    import typer
    from typer.main import get_command

    from remoterun.cli import render
    from remoterun.cli.app import app
    from remoterun.cli.interrupt import terminate_as_interrupt

    terminate_as_interrupt()
    command = get_command(app)
    try:
        status = command.main(args=words, prog_name="remoterun", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except typer.Exit as end:
        return int(end.exit_code)
    except typer.Abort:
        render.line("")
        return 130
    except _parser_error() as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            render.out(error.format_message())
            return 2
        render.usage(error)
        return 2


def _parser_error() -> Any:
    """The root of what the parser raises; typer does not export it, and brings a parser of its own since 0.29."""
    import typer

    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


if __name__ == "__main__":
    sys.exit(main())
