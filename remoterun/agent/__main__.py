"""The agent's command line: `serve` on a pipe, `supervise` and `measure` one run, `keep` a host that is rented."""

from __future__ import annotations

import os
import sys
from typing import List, Optional


def main(argv: Optional[List[str]] = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if len(words) < 3 or words[0] not in ("serve", "supervise", "measure", "keep") or words[1] != "--home":
        sys.stderr.write("usage: agent serve|keep --home HOME | supervise|measure --home HOME KEY\n")
        return 2
    sys.setrecursionlimit(4000)  # `os.walk` takes a frame for each of up to 2,048 folders, one in the other
    os.umask(0o077)  # what lies in a home is its user's alone; a command gets the usual one from its wrapper
    from .store.errors import HomeError
    from .store.home import Home

    try:
        home = Home.open(words[2])
    except HomeError as error:
        sys.stderr.write("remoterun agent: %s\n" % error.message)
        return 3
    if words[0] == "serve":
        from .serve import serve

        return serve(home, unpack)
    if words[0] == "keep":
        from .running.keeper import keep

        return keep(home)
    if words[0] == "measure":
        from .measuring.collecting import measure

        return measure(home, words[3])
    from .running.supervisor import supervise

    return supervise(home, words[3])


def unpack() -> None:
    """If this was read from the bundle: put its modules into a folder beside it, which later starts take, for there
    Python keeps them compiled: an agent is there in 40 ms instead of 100. Repeatable; never fails."""
    bundle = os.path.abspath(sys.argv[0])
    folder, kind = os.path.splitext(bundle)
    if kind != ".pyz" or os.path.isdir(folder):
        return
    import shutil
    import zipfile

    temporary = "%s.%d.tmp" % (folder, os.getpid())
    try:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(temporary)
        os.makedirs(os.path.join(temporary, "agent", "__pycache__"))  # Python makes it before our umask is set
        os.rename(temporary, folder)
    except (OSError, zipfile.BadZipFile):
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
