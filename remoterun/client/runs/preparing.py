"""What is checked of a run before it has a number: its request, its machine, and the files that go with it."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun import transfer
from remoterun.agent.shared.machines import CAPABILITIES, lacks
from remoterun.agent.shared.tree import Entry, Manifest, show
from remoterun.client.runs import placement
from remoterun.client.runs.packages import Choice, choose
from remoterun.client.runs.specs import STDIN, check_words
from remoterun.client.secrets import Secrets
from remoterun.client.webhooks import addresses
from remoterun.connections import Connections
from remoterun.errors import UsageError
from remoterun.model import MachineType, Mount, RunRequest
from remoterun.parsing import did_you_mean
from remoterun.session import Session
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.client.runs.reruns import OriginalRun, SavedTree
    from remoterun.clouds.ledger.planning import AgreedPlan, Plan
    from remoterun.source import Source

Take = Callable[[], "Source | None"]
"""Called for the source once the machine was opened, or what is rented was planned."""
Complete = Callable[["Source", Sequence[str]], "Source"]
"""Called with a source and the places of the mounts; returns what is sent, such as the source with untracked files."""


@dataclass(frozen=True)
class Talk:
    """Where it is reported what is done for a run."""

    progress: Progress = field(default_factory=Progress)
    waiting: Callable[[str], None] = lambda _: None
    """Called with a few words for what is waited for, and with "" at the end of that."""
    note: Callable[[str], None] = lambda _: None
    """Called with a line about machines of a pool that were passed over."""


@dataclass(frozen=True)
class Prepared:
    """A run that may be launched, any number of times: its request was checked and its files were listed.

    The source must stay open until the last launch.
    """

    request: RunRequest
    source: Source | None
    machine: MachineType
    """With the rental that the request asks for."""
    places: tuple[str, ...]
    """Where each mount goes."""
    tree: SourceTree | SavedTree
    choice: Choice
    """What the environment will hold; the request names its framework."""
    notify: tuple[str, ...]
    """The names of the addresses that get word of it."""
    addresses: Mapping[str, str]
    """Those addresses by their names, as far as they are known."""
    saved: Mapping[Mount, SavedTree] = field(default_factory=dict)
    """Mounts of the run that this one repeats: what that one read is mounted."""
    again: str = ""
    """The key of that run."""
    session: Session | None = None
    """The conversation with its machine, where that is open and fits. Of a pool, one is chosen at each launch."""
    settings: MachineType | None = None
    """Those of that machine, with the GPUs that the run gets."""
    plan: Plan | None = None
    """What will be rented for it."""
    agreed: AgreedPlan | None = None
    """That plan, once somebody has agreed to it: nothing is rented by another one."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Of the variables that the user set; found when it is launched, and saved nowhere but on the host."""
    outputs: SavedTree | None = None
    """What earlier attempts made: it lies over the source in the work tree."""
    log_before: int = 0
    """Bytes of the log that they wrote."""
    err_before: int = 0
    """Bytes of stderr, where that is apart."""
    until: float = math.inf
    """When the command must end by the run's time limit, in seconds since 1970; inf without one."""


class SourceTree:
    """The files of a source, which are read once: the first launch hashes what it reads, and the others know it."""

    def __init__(self, source: Source | None = None, stamps: Path | None = None, stdin: Path | None = None) -> None:
        """Lists the files, with the one for the command's stdin. Raises `TransferError` for one that can't be read."""
        self._files, self._root = _listed(source, stdin)
        self._stamps = stamps
        transfer.read_entries(self._files)

    def reading(self, progress: Progress) -> transfer.Reading:
        return transfer.read_entries(self._files, self._root, self._stamps)

    def send(self, session: Session, progress: Progress, extra: Mapping[str, bytes]) -> Manifest:
        """Let a home have the files, and `extra` (digest to content)."""
        manifest, _ = transfer.send_tree(session, self.reading(progress), dict(extra), progress)
        known = {entry.path: entry for entry in manifest}
        self._stamps = None  # its rows would be taken for those of files that are gone
        self._files = [(known.get(entry.path, entry), path) for entry, path in self._files]
        return manifest


def prepare(
    connections: Connections,
    request: RunRequest,
    source: Source | Take | None,
    machine: MachineType,
    again: OriginalRun | None = None,
    complete: Complete = lambda source, _: source,
    opening: Talk | None = None,
) -> Prepared:
    """See `Runs.prepare`. `again`: the run that is repeated, whose source it is."""
    if again is not None and machine.rental is None:  # what it asked for of rented machines
        request = request._replace(spot=False, max_hours=None, max_cost=None)
    machine, request = placement.with_image(placement.with_wishes(machine, request), request)
    machine = placement.rented_with(connections, machine, request)
    check_words(request)
    _check_variables(request)
    Secrets(connections.config.home).check(name for _, name in request.secrets)
    config = connections.config
    told = addresses(config.home, config.notify if request.notify is None else request.notify)
    placement.check_after(connections, request, machine)
    choice = Choice(request.framework)
    prepared = Prepared(request, None, machine, (), SourceTree(), choice, tuple(told), told)
    if opening is not None:
        prepared = opened(connections, prepared, opening)
    source = source() if callable(source) else source
    saved = again.mounts if again is not None else {}
    places = tuple(mount.place(source.workdir if source is not None else "") for mount in request.mounts)
    number = connections.registry.numbered
    mounts = (each if each in saved else replace(each, resource=number(each.resource)) for each in request.mounts)
    request = request._replace(mounts=tuple(mounts))
    _check_places(places, request)
    _check_engine(request, places, machine)
    prepared = replace(prepared, request=request, source=source, places=places)
    if again is not None:
        return replace(prepared, tree=again.tree, saved=saved, again=again.run.key)
    _check_script(request, source, places)
    if source is not None:
        source = complete(source, places)
    choice = choose(request, source)
    request = request._replace(framework=choice.framework, pip=tuple(dict.fromkeys([*request.pip, *choice.tools])))
    tree = SourceTree(source, connections.config.home / "stamps.db", request.stdin)
    return replace(prepared, request=request, source=source, tree=tree, choice=choice)


def opened(connections: Connections, prepared: Prepared, talk: Talk) -> Prepared:
    """`prepared`, with its machine open, or with what will be rented for it. Raises `HostError`, `UsageError`,
    `ProviderError`."""
    machine = prepared.machine
    if machine.rental is not None:
        from remoterun.client.runs.rented import planned

        return planned(connections, prepared, talk)
    session, settings = placement.fitting(connections, machine, prepared.request, talk.note)
    return replace(prepared, session=session, settings=settings)


def _listed(source: Source | None, stdin: Path | None) -> tuple[list[tuple[Entry, str]], str]:
    """(the entries of a source, and of what its command reads, with the paths to read them from, the folder that they
    are of; "" for a checkout)."""
    found = [(Entry("f", STDIN, 0, "", False), str(stdin))] if stdin is not None else []
    if source is None:
        return found, ""
    if found and any(file.path == STDIN for file in source.files):
        raise UsageError(f"stdin needs the name `{STDIN}`, which a file here has", hint=f"git mv {STDIN} OTHER")
    for file in source.files:
        if file.kind == "link":
            found.append((Entry("l", file.path, target=file.target), ""))
        else:
            found.append((Entry("f", file.path, 0, "", file.executable), file.origin))
    found += [(Entry("d", path), "") for path in source.empty_dirs]
    root = str(source.root)
    in_place = stdin is None and all(origin.startswith(root) for _, origin in found[:1] if origin)
    return found, root if in_place else ""


_STARTS = re.compile(
    r"\s*(?:\w+=\S*\s+)*(?:(?:python[\d.]*|(?:ba)?sh|node)\s+(?:-[BEOeux]+\s+)*(?=\w[\w./-]*\.\w)|(?=\./))"
    r"([\w./-]+)(?=[\s;|&<>]|\Z)"
)
"""A script with a plain name, which a command starts before anything else could have made it."""


def _check_script(request: RunRequest, source: Source | None, places: Sequence[str]) -> None:
    """Refuse a command that begins with a script that is neither here nor below a mount."""
    (workdir, root), found = (source.workdir, source.root) if source else ("", None), _STARTS.match(request.command)
    typed = found[1] if found and not request.image and not re.search(r"\|\||;", request.command) else "."
    sent = [file.path for file in source.files] if source else []
    links = [file.path for file in source.files if file.kind == "link"] if source else []
    path, provided = posixpath.normpath(posixpath.join(workdir, typed)), ("../", *(f"{e}/" for e in (*places, *links)))
    if path in sent or f"{path}/".startswith(provided) or posixpath.exists(posixpath.join(root or "", path)):
        return
    names = {posixpath.basename(each): posixpath.relpath(each, workdir or ".") for each in sent[:2000]}
    close = did_you_mean(posixpath.basename(typed), names)
    hint = f"did you mean `{names[close]}`?" if close else '`mounts=["uploads/NAME:PATH"]` mounts what is not here'
    raise UsageError(f"the command starts `{show(typed)}`, which is not here", hint=hint)


def _check_places(places: Sequence[str], request: RunRequest) -> None:
    for number, place in enumerate(places):
        for other in places[:number]:
            if place == other or place.startswith(other + "/") or other.startswith(place + "/"):
                raise UsageError(
                    f"two mounts meet at `{show(place)}`", hint=f'mounts=["{request.mounts[number].resource}:OTHER"]'
                )


def _check_engine(request: RunRequest, places: Sequence[str], machine: MachineType) -> None:
    """Refuse what the machine's engine does not have. Where the machine chooses its engine, it refuses by itself."""
    absolute = any(place.startswith("/") for place in places)
    lacking = lacks(machine.engine, request.image is not None, bool(request.apt), absolute)
    if lacking:
        what = {"image": "an image", "apt": "Debian packages", "mount": "a mount at an absolute path"}[lacking]
        raise UsageError(
            f"`{machine.name}` can't have {what}: its runs use {CAPABILITIES[machine.engine].title}",
            hint="`machine=NAME` names one with Docker",
        )


def _check_variables(request: RunRequest) -> None:
    names = [variable for variable, _ in request.secrets]
    for name in names:
        if name in dict(request.env) or names.count(name) > 1:
            raise UsageError(f"the variable `{name}` is asked for twice", hint="give one of them another name")
