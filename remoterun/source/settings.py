"""The repository's own settings, as far as they matter to what is sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from remoterun.source.git import Git


class RepositorySettings(NamedTuple):
    """The repository's own settings that say what its disk can hold, and where it comes from."""

    file_mode: bool
    symlinks: bool
    remotes: Mapping[str, str]
    upstreams: Mapping[str, str]  # branch → remote

    @classmethod
    def read(cls, root: str) -> RepositorySettings:
        """Asks git, once."""
        wanted = r"^(core\.(filemode|symlinks)|remote\..*\.url|branch\..*\.remote)$"
        flags = {"core.filemode": True, "core.symlinks": True}
        remotes: dict[str, str] = {}
        upstreams: dict[str, str] = {}
        git = Git(root)
        answer = git.attempt("config", "-z", "--get-regexp", wanted)
        if answer.status > 1:
            git.fail(answer)
        for key, value in pairs(answer.output):
            if key in flags:
                flags[key] = value.lower() not in ("false", "no", "off", "0", "")
            elif key.startswith("remote."):
                remotes.setdefault(key.removeprefix("remote.").removesuffix(".url"), value)
            else:
                upstreams[key.removeprefix("branch.").removesuffix(".remote")] = value
        return cls(flags["core.filemode"], flags["core.symlinks"], remotes, upstreams)

    def remote(self, branch: str | None) -> str | None:
        """URL of the remote that `branch` follows, or of `origin`, or of the first; without credentials."""
        for name in (self.upstreams.get(branch or "", "origin"), "origin", *self.remotes):
            if name in self.remotes:
                return without_credentials(self.remotes[name])
        return None


def without_credentials(url: str) -> str:
    """`url` without user name, password, query and fragment; the user of an SSH URL stays."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url  # a path, or host:path of SSH, which has no place for a password
    authority, slash, path = rest.partition("/")
    if "@" not in authority and "@" in path and re.search(r":\D", authority):
        authority, slash, path = (authority + slash + path).rpartition("@")[2].partition("/")  # a `/` in a password
    user, at, host = authority.rpartition("@")
    keep = at and scheme.lower().endswith("ssh")
    bare = f"{scheme}://{user.partition(':')[0] + '@' if keep else ''}{host}{slash}{path}"
    return re.split(r"[?#]", bare, maxsplit=1)[0]


def pairs(listing: bytes) -> Iterator[tuple[str, str]]:
    """Key and value of each line of `git config -z`; a key without a value is true."""
    for line in os.fsdecode(listing).split("\0"):
        if line:
            key, separator, value = line.partition("\n")
            yield key, value if separator else "true"
