"""What the environment of a run holds: the words about it, and the question where the code needs more."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun.agent.shared.spec import NONE, PYTHON
from remoterun.cli import render
from remoterun.cli.sending import Sending
from remoterun.errors import UsageError
from remoterun.model import RunRequest
from remoterun.sizes import counted

if TYPE_CHECKING:
    from remoterun.client import Choice, Client, Prepared

_SHOWN = 4


def requirements_of(file: Path) -> str:
    """The text of what `--pip-req` names; of a pyproject.toml or a uv.lock, the packages of its project."""
    from remoterun.source import as_requirements

    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"`{render.name(str(file))}` can't be read: {error.strerror}", hint="--pip-req requirements.txt"
        )
    return as_requirements(file.name, data)


def framework_text(choice: Choice) -> str:
    """A framework with the reason for it."""
    assert choice.framework is not None
    text = {NONE: "none: what the machine has", PYTHON: "plain Python"}.get(choice.framework, "TensorFlow")
    return f"{text}: {choice.why}" if choice.why else text


def with_packages(
    client: Client, request: RunRequest, prepared: Prepared, machine: str | None, how: Sending
) -> Prepared:
    """`prepared`, or the same with the packages that the project lists, where the code needs them and the user wants
    them. `request`: as it was typed."""
    choice = prepared.choice
    if choice.unsure:
        render.line("Plain Python: nothing read imports TensorFlow; --framework tensorflow has it.")
    if not choice.lacking:
        return prepared
    modules = [f"`{module}`" for module in choice.lacking[:_SHOWN]]
    if len(choice.lacking) > _SHOWN:
        modules.append(f"{len(choice.lacking) - _SHOWN} more")
    named = " and ".join(filter(None, [", ".join(modules[:-1]), modules[-1]]))
    text = f"the code imports {named}, which {'plain Python' if choice.framework == PYTHON else 'it'} lacks"
    offer = choice.offer
    if offer is None:
        render.warning(text)
        options = " ".join(f"--pip {package}" for package in choice.packages[:_SHOWN])
        render.line(f"  {options}   installs {'it' if len(choice.lacking) == 1 else 'them'}")
        return prepared
    workdir = prepared.source.workdir if prepared.source is not None else ""
    path = os.path.relpath(offer.path, workdir or ".")
    lists = f"{render.name(path)} lists {counted(offer.count, 'package')}"
    them = "it" if offer.count == 1 else "them"
    if not how.yes and not render.person_there():
        render.warning(text)
        render.line(f"  {lists}; --pip-req {render.word(path)} installs {them}, and so does -y")
        return prepared
    if how.asks:
        render.line(f"T{text[1:]}.")
        answer = render.choose(f"{lists}. Install {them}? (q: quit)", "ynq", "y")
        if answer == "q":
            raise KeyboardInterrupt
        if answer == "n":
            return prepared
    else:
        render.line(f"{lists}, which {'is' if offer.count == 1 else 'are'} installed.")
    options = f"{request.options} {shlex.join(['--pip-req', path])}".strip()
    request = replace(request, requirements=offer.text, options=options)
    return client.runs.prepare(request, prepared.source, machine)
