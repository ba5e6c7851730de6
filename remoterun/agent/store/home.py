"""A home: the folder in which remoterun stores blobs, uploads, runs and environments. Every path of it is named here.

HOME/
    home.json       {"format": 2, "id": …}
    agent/          the agent's bundles
    blobs/ab/cdef…  a file's content, read-only, named by its SHA-256; "….x" is its executable twin
    partial/…       blobs under way
    uploads/NAME/   versions.json; N/ the files of version N (hard links to blobs); N.tree its manifest
    runs/KEY/       see run_folder.py
    active/KEY      a mark for each run that hasn't been cleaned up after its end
    envs/HASH/      environments of the engine `process`
    leases/PID-…    digests that a manifest will soon refer to: see leases.py
    damaged/…       blobs that are not what their name says: see check.py
    rented.json, leaving    of a host that is rented: see machine.py
    reserve         room for the ends of runs: see reserve.py
    queue/, locks/, tmp/
"""

from __future__ import annotations

import contextlib
import json
import os
from types import MappingProxyType
from typing import Any, ContextManager, Dict, List, Mapping, Tuple

from ..shared.files import DISK_FULL, locked, read_json, remove_tree, temporary_folder, token, write_whole
from ..shared.identity import Machine
from ..shared.records import encode
from ..shared.spec import KEY, ResolvedMount
from ..shared.states import RunState
from ..shared.submission import Submission
from ..shared.tree import Manifest, show
from .blobs import Blobs
from .checkout import checkout
from .errors import HomeError, disk_full
from .leases import Lease
from .machine import RentalState
from .reserve import Reserve
from .run_folder import RunFolder
from .uploads import UploadFolders

FORMAT = 2


class Home:
    """One home. `open` makes it where it is missing. Safe for several processes at once."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self.agents = self._at("agent")
        self.blobs = Blobs(self.path)
        self.partial = self._at("partial")
        self.uploads = UploadFolders(self.path, self.blobs)
        self.runs = self._at("runs")
        self.active = self._at("active")
        self.envs = self._at("envs")
        self.queue = self._at("queue")
        self.locks = self._at("locks")
        self.tmp = self._at("tmp")
        self.leases = self._at("leases")
        self.damaged = self._at("damaged")
        self.reserve = Reserve(self.path)
        self.rental = RentalState(self.path)
        self.id = ""

    @classmethod
    def open(cls, path: str) -> "Home":
        """The home at `path`, made if missing (mode 0700). Raises `HomeError` for one of another format."""
        home = cls(path)
        marker = home._at("home.json")
        try:
            about = read_json(marker)
        except (FileNotFoundError, NotADirectoryError):
            about = home._make(marker)
        except ValueError:
            raise HomeError("bad_home", "%s is damaged" % marker)
        if about.get("format") != FORMAT:
            raise HomeError(
                "bad_home",
                "%s is a home of format %s, and this remoterun knows %d: upgrade it, or give the machine another `home`"
                % (home.path, about.get("format"), FORMAT),
            )
        if not all(map(os.path.isdir, home._folders())):  # a person has made room by hand
            home._make(marker)
        home.id = about["id"]
        return home

    def _folders(self) -> List[str]:
        """Those that are always there."""
        stored = [self.agents, self.blobs.folder, self.partial, self.uploads.folder, self.runs, self.envs]
        return [self.path, *stored, self.active, self.queue, self.locks, self.tmp, self.leases]

    def _make(self, marker: str) -> Dict[str, Any]:
        try:
            for folder in self._folders():
                os.makedirs(folder, 0o700, exist_ok=True)
            for name in ("blobs", "gc"):  # which must be there when no byte is free
                os.close(os.open(self.lock(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with locked(self.lock("home")):
                if not os.path.exists(marker):
                    write_whole(marker, json.dumps({"format": FORMAT, "id": token(8)}).encode())
        except OSError as error:
            if error.errno in DISK_FULL:
                raise disk_full(self.path)
            raise HomeError(
                "bad_home", "the home %s can't be made: %s" % (self.path, error.strerror), "give it another `home`"
            )
        about: Dict[str, Any] = read_json(marker)
        return about

    def _at(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    def lock(self, name: str) -> str:
        return os.path.join(self.locks, name)

    def lease(self) -> Lease:
        """To protect blobs from `gc` before something refers to them."""
        return Lease(self.path)

    def temporary(self, label: str) -> ContextManager[str]:
        """A new folder under tmp/, gone afterwards."""
        return temporary_folder(self.tmp, label)

    def checkout(self, manifest: Manifest, target: str, private: bool) -> None:
        """See `checkout.checkout`."""
        checkout(self.blobs, manifest, target, private)

    # -- runs

    def run(self, key: str) -> RunFolder:
        """The run folder of `key`, there or not. Raises `HomeError` for what is not a key."""
        if not KEY.match(key):
            raise HomeError("bad_name", "%s is not the key of a run" % show(key))
        return RunFolder(os.path.join(self.runs, key))

    def check_present(self) -> None:
        """Raises `HomeError("no_home")` where its folder is gone, or is another home by now."""
        try:
            there = read_json(self._at("home.json")).get("id") == self.id
        except (OSError, ValueError):
            there = False
        if not there:
            raise HomeError("no_home", "the home %s is gone, or another one is there" % self.path)

    def existing_run(self, key: str) -> RunFolder:
        """Raises `HomeError("not_found")`, `HomeError("no_home")`."""
        run = self.run(key)
        if not run.exists():
            self.check_present()
            raise HomeError("not_found", "there is no run %s in %s" % (key, self.path))
        return run

    def run_keys(self) -> List[str]:
        return sorted(key for key in os.listdir(self.runs) if KEY.match(key))

    def active_keys(self) -> List[str]:
        return sorted(key for key in os.listdir(self.active) if KEY.match(key))

    def mark_active(self, key: str) -> None:
        write_whole(os.path.join(self.active, key), b"")

    def unmark_active(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.active, key))

    def create_run(
        self,
        asked: Submission,
        mounts: Tuple[ResolvedMount, ...] = (),
        session: Mapping[str, str] = MappingProxyType({}),
    ) -> RunFolder:
        """Make the run folder of what was handed over, its first event QUEUED. Once made, a repetition changes nothing.

        `mounts`: what was found for each of the spec's. `session`: the variables for its supervisor, which anybody may
        start from now on. Raises `HomeError("missing_blob")` when a file of the source isn't here,
        `HomeError("disk_full")` where nothing more may arrive, `TreeError`, and `SpecError` for a spec that is not
        right.
        """
        spec, source = asked.spec, Manifest.decode(asked.source)
        left = Manifest.decode(asked.left) if asked.left else None
        run = self.run(spec.key)
        if run.exists():
            return run
        absent = self.blobs.missing(source) or (left is not None and self.blobs.missing(left))
        if absent:
            raise HomeError("missing_blob", "%d files of the source are missing here" % len(absent))
        self.reserve.check(len(asked.source) + len(asked.left or b""))
        with self.temporary("run") as temporary:
            staged = RunFolder(temporary)
            os.mkdir(staged.io, 0o700)
            write_whole(staged.source_file, source.encode())
            if left is not None:
                write_whole(staged.left_file, left.encode())
            staged.move(RunState.QUEUED)
            write_whole(staged.machine_file, encode(Machine.this()))
            if spec.queue:
                write_whole(staged.queue_file, spec.queue.encode())
            write_whole(staged.mounts_file, encode(mounts))
            write_whole(staged.spec_file, spec.encode())
            # Secrets come last: what a crash leaves of us here lies there until the next gc.
            staged.save(staged.grant_file, asked.grant)
            staged.save(staged.images_file, asked.images)
            staged.save_webhooks(asked.webhooks)
            staged.save(staged.environ_file, dict(session))
            write_whole(staged.values_file, encode(dict(asked.values)))
            with locked(self.lock("making")):  # a client that was killed may have left an agent which makes it, too
                if run.exists():
                    return run
                remove_tree(run.path)
                os.rename(temporary, run.path)
        try:
            # The folder comes first: who sees the mark of a run without a folder takes that away. Should we die in
            # between, the next contact about this run has it supervised, which marks it.
            self.mark_active(run.key)
        except OSError:
            run.remove()
            raise
        return run
