"""The public API: what the command line calls, and a program may. Blocking; one `Client` per thread.

    with Client() as client:
        client.upload(Path("data/input.txt"), name="doom")
        run = client.submit(RunRequest("python -m trainer.train --data_dir=./data",
                                       mounts=(Mount.parse("uploads/doom:data"),)), source=client.source())
        for item in client.follow(run.number):
            ...
        client.copy("runs/last/models", Path("."))

Nothing here prints or asks; questions come as exceptions or through the callbacks that are passed in.
"""

from __future__ import annotations

from remoterun.client.machines import Machines
from remoterun.client.runs import Item, LogBytes, Note, Runs, StateChange
from remoterun.client.submitting import Submitting
from remoterun.client.uploads import Uploaded
from remoterun.errors import TransferError
from remoterun.transfer import Fetched
from remoterun.upkeep import Checked, Collected, Usage


class Client(Submitting, Runs, Machines):
    """Everything a user can do. Sessions are opened when needed and kept until `close`."""


__all__ = [
    "Checked",
    "Client",
    "Collected",
    "Fetched",
    "Item",
    "LogBytes",
    "Note",
    "StateChange",
    "TransferError",
    "Uploaded",
    "Usage",
]
