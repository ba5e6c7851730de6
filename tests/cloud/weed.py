"""SeaweedFS as the S3 server: checksums, signatures and their expiry, conditional writes are those of a real one.

It has an address in the lab's network, as a host has: whatever reaches hosts reaches it, its link can be cut, and it
ends with the lab, however that ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tests.lab import Lab, LabError
from tests.lab.process import tail, until
from tests.seaweed import program, remove_socket

INDEX = 240  # of the lab's network, past all hosts
PORTS = range(11000, 12500, 300)
"""Of the lab 0, for each of its servers; a network of its own does not suffice: SeaweedFS' sockets in /tmp are named by
its ports, and of two labs at once one would talk to the other's filer."""
START_SECONDS = 60.0


class Weed:
    """The server. A context manager; `ready` waits until it takes objects, 4 s after the start."""

    def __init__(self, lab: Lab, folder: Path, keys: dict[str, str]) -> None:
        """`keys`: the secret of each access key that may do everything."""
        self._lab = lab
        self._folder = folder
        self._keys = keys
        self._namespace = f"{lab.network.name}-s3"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self.address = lab.network.address(INDEX)
        of_lab = int(self.address.split(".")[2])
        self._master, self._volume, self._filer, self._metrics, s3 = (port + of_lab for port in PORTS)
        self._s3_port = s3
        self.url = f"http://{self.address}:{s3}"

    def __enter__(self) -> Weed:
        weed = program()
        assert weed is not None
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "data").mkdir(parents=True)
        self._write_keys(self._keys)
        self._lab.network.plug(self._namespace, INDEX)
        words = [f"-dir={self._folder}/data", f"-ip={self.address}", f"-ip.bind={self.address}"]
        words += [f"-master.port={self._master}", f"-volume.port={self._volume}"]
        words += ["-filer", f"-filer.port={self._filer}", f"-metricsPort={self._metrics}"]
        words += ["-s3", f"-s3.port={self._s3_port}", f"-s3.config={self._folder}/s3.json"]
        words += ["-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        with self._log().open("wb") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self._namespace}", str(weed), "-logtostderr", "server", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._lab.network.unplug(self._namespace, INDEX)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        remove_socket(self._filer)
        shutil.rmtree(self._folder, ignore_errors=True)

    def ready(self) -> Weed:
        """Wait until an object can be written."""
        if not self._is_ready:
            until(self._takes_objects, START_SECONDS, "SeaweedFS takes objects", lambda: tail(self._log()), pause=0.1)
            self._is_ready = True
        return self

    def wipe(self) -> None:
        """Delete every bucket with all that is in it."""
        self.ready()
        for bucket in self.buckets():
            words = f"http://{self.address}:{self._filer}/buckets/{bucket}?recursive=true&ignoreRecursiveError=true"
            urllib.request.urlopen(urllib.request.Request(words, method="DELETE"), timeout=60).close()

    def buckets(self) -> list[str]:
        """The names of all buckets."""
        request = urllib.request.Request(f"http://{self.address}:{self._filer}/buckets/?limit=10000")
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

    # --- what the rest stands on ---

    def _write_keys(self, keys: dict[str, str]) -> None:
        credentials = [{"accessKey": key, "secretKey": secret} for key, secret in keys.items()]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identities = {"identities": [{"name": "me", "credentials": credentials, "actions": actions}]}
        (self._folder / "s3.json").write_text(json.dumps(identities))

    def _takes_objects(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LabError("SeaweedFS ended", tail(self._log()))
        try:
            filer = f"http://{self.address}:{self._filer}/lab/ready"
            urllib.request.urlopen(urllib.request.Request(filer, data=b"ready", method="PUT"), timeout=5).close()
            urllib.request.urlopen(f"{self.url}/status", timeout=5).close()
        except OSError:
            return False
        return True

    def _log(self) -> Path:
        return self._folder / "weed.log"
