"""Trees on their way: sent to a host, or downloaded from one.

To a host      reading.py lists and hashes this machine's files (known ones: stamps.py); sending.py is the flow;
               large_upload.py sends large files in pieces; inventory.py asks what the host has, and what fits
From a host    fetching.py is the flow; blobs.py, large_download.py and live.py fetch files; duplicates.py copies what
               came already; destination.py says where files may stand, and writes them; memory.py: into memory
All of them    lanes.py, a queue of tasks and several connections; answers.py, what may come; progress.py, how far it is
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoterun.on_use import on_use

if TYPE_CHECKING:
    from remoterun.transfer.destination import Fetched
    from remoterun.transfer.fetching import Choice, Conflict, Download, download, fetch_manifest, place, refuse
    from remoterun.transfer.inventory import missing_blobs
    from remoterun.transfer.memory import contents
    from remoterun.transfer.progress import Progress
    from remoterun.transfer.reading import Reading, read_entries, read_tree
    from remoterun.transfer.sending import Sent, send_blobs, send_tree
else:
    __getattr__ = on_use(
        __name__,
        {
            "fetching": ("Choice", "Conflict", "Download", "download", "fetch_manifest", "place", "refuse"),
            "inventory": ("missing_blobs",),
            "destination": ("Fetched",),
            "memory": ("contents",),
            "progress": ("Progress",),
            "reading": ("Reading", "read_entries", "read_tree"),
            "sending": ("Sent", "send_blobs", "send_tree"),
        },
    )


__all__ = [
    "Choice",
    "Conflict",
    "Download",
    "Fetched",
    "Progress",
    "Reading",
    "Sent",
    "contents",
    "download",
    "fetch_manifest",
    "missing_blobs",
    "place",
    "read_entries",
    "read_tree",
    "refuse",
    "send_blobs",
    "send_tree",
]
