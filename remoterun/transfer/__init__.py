"""Trees on their way: sent to a host, or downloaded from one.

To a host      reading.py lists and hashes this machine's files (known ones: stamps.py); sending.py is the flow
From a host    fetching.py is the flow; downloads.py fetches files; destination.py says where they may stand, and writes
               them
All of them    large_files.py, pieces; lanes.py, a queue of tasks and several connections; answers.py, what a host may
               answer; progress.py, how far it is
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoterun.on_use import on_use

_NAMES = {
    "answers": ("missing_blobs",),
    "blobs": ("contents",),
    "destination": ("Fetched",),
    "downloads": ("Download", "download"),
    "fetching": ("Choice", "Conflict", "fetch_manifest", "place", "refuse"),
    "progress": ("Progress",),
    "reading": ("Reading", "read_entries", "read_tree"),
    "sending": ("Sent", "send_blobs", "send_tree"),
}

if TYPE_CHECKING:
    from remoterun.transfer.answers import missing_blobs
    from remoterun.transfer.blobs import contents
    from remoterun.transfer.destination import Fetched
    from remoterun.transfer.downloads import Download, download
    from remoterun.transfer.fetching import Choice, Conflict, fetch_manifest, place, refuse
    from remoterun.transfer.progress import Progress
    from remoterun.transfer.reading import Reading, read_entries, read_tree
    from remoterun.transfer.sending import Sent, send_blobs, send_tree
else:
    __getattr__ = on_use(__name__, _NAMES)

__all__ = [name for names in _NAMES.values() for name in names]
