"""SeaweedFS as the S3 server: checksums, signatures and their expiry, conditional writes are those of a real one.

It has an address in the lab's network, as a host has: whatever reaches hosts reaches it, its link can be cut, and it
ends with the lab, however that ends.
"""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tests.lab import Lab
from tests.seaweed import EVERYTHING, Store, ended, started, until_it_takes_objects

INDEX = 240  # of the lab's network, past all hosts
PORTS = {"master": 11000, "volume": 11300, "filer": 11600, "s3": 12200}
"""Of the lab 0, for each of its servers; a network of its own does not suffice: SeaweedFS' sockets in /tmp are named by
its ports, and of two labs at once one would talk to the other's filer."""


class Weed:
    """The server. A context manager; `ready` waits until it takes objects, 4 s after the start."""

    def __init__(self, lab: Lab, folder: Path, keys: dict[str, str]) -> None:
        """`keys`: the secret of each access key that may do everything."""
        self._lab = lab
        self._folder = folder
        self._people = [("me", key, secret, EVERYTHING) for key, secret in keys.items()]
        self._namespace = f"{lab.network.name}-s3"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self.address = lab.network.address(INDEX)
        of_lab = int(self.address.split(".")[2])
        self._ports = {name: port + of_lab for name, port in PORTS.items()}
        self.store = Store(*(f"http://{self.address}:{self._ports[name]}" for name in ("s3", "filer")))
        self.url = self.store.url

    def __enter__(self) -> Weed:
        self._lab.network.plug(self._namespace, INDEX)
        words = ["-volume.max=0", "-master.volumeSizeLimitMB=64"]
        inside = ["nsenter", f"--net=/run/netns/{self._namespace}"]
        self._process = started(self._folder, self.address, self._ports, self._people, words, inside)
        return self

    def __exit__(self, *_: object) -> None:
        self._lab.network.unplug(self._namespace, INDEX)
        if self._process is not None:
            ended(self._process, self._folder, self._ports["filer"])

    def ready(self) -> Weed:
        """Wait until an object can be written."""
        if not self._is_ready:
            assert self._process is not None
            until_it_takes_objects(self._process, self.store, self._folder)
            self._is_ready = True
        return self

    def wipe(self) -> None:
        """Delete every bucket with all that is in it."""
        self.ready()
        for bucket in self.buckets():
            self.store.delete_bucket(bucket)

    def buckets(self) -> list[str]:
        """The names of all buckets."""
        request = urllib.request.Request(f"{self.store.filer}/buckets/?limit=10000")
        request.add_header("Accept", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                entries = json.load(response)["Entries"] or []
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []
        names = [entry["FullPath"].rpartition("/")[2] for entry in entries]
        return [name for name in names if not name.startswith(".")]
