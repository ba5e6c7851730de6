"""Trees on their way: read here and sent as the blobs that are missing there, fetched into a folder, or passed on.

reading.py    this machine's files in the order of a manifest; what they were hashed to before (stamps.py)
sending.py    one flow to a host          codecs.py       how this machine compresses
fetching.py   one flow from a host        relaying.py     from one host to another
progress.py   how far it is
"""

from __future__ import annotations

from pathlib import Path

from remoterun.transfer.fetching import Conflict, fetch, fetch_manifest, refuse
from remoterun.transfer.holdings import missing_blobs
from remoterun.transfer.landing import Fetched
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import Reading, read_entries, read_tree
from remoterun.transfer.relaying import relay
from remoterun.transfer.sending import Sent, send_tree


def base_name(path: Path) -> str:
    """The name of what `path` leads to, also for `.` and `dir/`."""
    return path.resolve().name


__all__ = [
    "Conflict",
    "Fetched",
    "Progress",
    "Reading",
    "Sent",
    "base_name",
    "fetch",
    "fetch_manifest",
    "missing_blobs",
    "read_entries",
    "read_tree",
    "refuse",
    "relay",
    "send_tree",
]
