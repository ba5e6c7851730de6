"""One instance: what moto says of it, and the host that makes it true."""

from __future__ import annotations

import base64
import contextlib
import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cloud.host import CloudHost
from tests.cloud.metadata import Metadata
from tests.lab.error import LabError

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
SHUTDOWN_SECONDS = 20.0
ENDED = (LabError, OSError)
"""What is raised where a machine is switched off while something is started in it: its folders in /proc are gone."""
SERVICES = "services"
"""sshd and Docker answer, and what user-data asks for begins."""

USER_SHUTDOWN = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
OWN_SHUTDOWN = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
SPOT = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
LOST = ("Server.InternalError", "Server.InternalError: Internal error on launch")


@dataclass(frozen=True)
class Event:
    """A change of state, or `SERVICES`, and when (`time.monotonic`)."""

    at: float
    state: str


class Machine:
    """An EC2 instance that is a host of the lab; made by RunInstances, found by `Cloud.machine`.

    One thread boots it and waits for its end. `self._power` is held while it is switched on or off.
    """

    def __init__(self, cloud: Cloud, record: Any) -> None:
        """`record` is moto's instance."""
        self.id: str = record.id
        self.record = record
        self.cloud = cloud
        self.host: CloudHost | None = None
        self.events: list[Event] = []
        self.spot_ends: str | None = None
        """When the notice says that it will be terminated."""
        self.hangs_since: float | None = None
        """By AWS's clock: since then its status checks fail."""
        self._power = threading.RLock()
        self._ended = threading.Event()  # somebody decided that it ends
        self._threads: list[threading.Thread] = []
        self._metadata: Metadata | None = None
        self._set("pending")

    def __repr__(self) -> str:
        return f"<Machine {self.id} {self.state}>"

    # --- for tests ---

    @property
    def state(self) -> str:
        return str(self.record.state)

    @property
    def tags(self) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self.record.get_tags()}

    @property
    def user_data(self) -> bytes:
        """What RunInstances was given."""
        encoded = self.record.user_data
        return base64.b64decode(str(encoded)) if encoded else b""

    def notice(self, seconds: float = 120.0) -> None:
        """A spot notice: the metadata service tells of it at once, and after `seconds` the instance is terminated."""
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        self.spot_ends = ends.strftime("%Y-%m-%dT%H:%M:%SZ")

        def interrupt() -> None:
            if not self._ended.wait(seconds):
                self.end("terminated", SPOT)

        self._in_thread(interrupt)

    def hang(self) -> None:
        """Nothing in it goes on, though it is on."""
        assert self.host is not None
        self.host.hang()
        self.hangs_since = time.time() + self.cloud.clock

    def vanish(self, until_told: float = 5.0, *, spot: bool = False) -> None:
        """It is gone without a word; only after `until_told` seconds the API knows."""
        with self._power:
            self._ended.set()
            if self.host is not None and self.host.is_up():
                self.host.cut()
                self.host.down()
        reason = SPOT if spot else LOST

        def tell() -> None:
            self.cloud.closing.wait(until_told)
            self._take_away("terminated", reason)

        self._in_thread(tell)

    # --- what the API does with it ---

    def launch(self) -> None:
        self._in_thread(self._live)

    def end(self, state: str, reason: tuple[str, str]) -> None:
        """Stop or terminate it: the host is shut down as by its power button, which is done in the background."""
        if self.state in ("terminated", state) or (self.state == "shutting-down"):
            return
        self._ended.set()
        self._set({"terminated": "shutting-down", "stopped": "stopping"}[state])

        def work() -> None:
            with self._power:
                if self.host is not None and self.host.is_up():
                    at_once = self.cloud.closing.is_set() or self.hangs_since is not None
                    self.host.shut_down(0 if at_once else SHUTDOWN_SECONDS)
            self._take_away(state, reason)

        self._in_thread(work)

    def close(self) -> None:
        """Switch it off at once, and wait for its threads."""
        self._ended.set()
        with self._power:
            if self.host is not None:
                self.host.down()
        for thread in list(self._threads):
            thread.join(30)
        with self._power:
            self._discard()

    # --- its life ---

    def _live(self) -> None:
        ended = self._ended
        if not self._passed(lambda: self.cloud.boot_seconds, ended):
            return
        place = str(self.record.instance_type), str(self.record.placement.zone)
        if (code := self.cloud.never_runs.get(place)) is not None:
            self._take_away("terminated", (code, f"{code}: it never ran"))
            return
        try:
            self._switch_on()
        except LabError as error:
            if not ended.is_set():
                print(f"{self.id} doesn't boot: {error}")
                self._take_away("terminated", LOST)
            return
        self._start_services(ended)
        self._wait()
        if not ended.is_set():
            ended.set()
            terminate = self.record.instance_initiated_shutdown_behavior == "terminate"
            self._set("shutting-down" if terminate else "stopping")
            self._take_away("terminated" if terminate else "stopped", OWN_SHUTDOWN)

    def _passed(self, seconds: Callable[[], float], ended: threading.Event) -> bool:
        """Blocks until so many seconds have passed, which a test may change meanwhile; False if it is to end before."""
        began = time.monotonic()
        while (left := began + seconds() - time.monotonic()) > 0:
            if ended.wait(min(left, 0.1)):
                return False
        return not ended.is_set()

    def _switch_on(self) -> None:
        with self._power:
            if self._ended.is_set():
                return
            if self.host is None:
                self.host = self.cloud.make_host(self)
            self.host.up()
            self._close_metadata()
            self._metadata = Metadata(self)
            self.cloud.set_firewall(self)
            self._show_addresses(self.host.address)
            self._set("running")

    def _start_services(self, ended: threading.Event) -> None:
        host = self.host
        if host is None:  # somebody decided that it ends before it was switched on
            return
        with contextlib.suppress(*ENDED):  # it was switched off meanwhile
            if not self._passed(lambda: self.cloud.sshd_seconds, ended):
                return
            host.init()
            host.start_sshd()
            self._start_docker(host)
            self.events.append(Event(time.monotonic(), SERVICES))
            host.finish()

    def _start_docker(self, host: CloudHost) -> None:
        try:
            host.start_docker()
        except ENDED as error:
            if host.is_up():
                host.note(f"Docker doesn't start: {error}")

    def _wait(self) -> None:
        """Until it is off, whoever has switched it off."""
        host = self.host
        if host is not None:
            with contextlib.suppress(AssertionError):  # it was switched off before it could be waited for
                host.wait_for_end()

    def _take_away(self, state: str, reason: tuple[str, str]) -> None:
        with self._power:
            if self.state == "terminated":
                return
            self._close_metadata()
            if self.host is not None:
                self.host.down()
            if state == "terminated":
                self._discard()
                self.record.leave()
            else:
                for nic in self.record.nics.values():
                    nic.public_ip = None
            self.record.give_reason(*reason)
            self._set(state)

    def _discard(self) -> None:
        self._close_metadata()
        host = self.host
        if host is not None:
            self.host = None
            self.cloud.lab.discard(host)

    def _close_metadata(self) -> None:
        if self._metadata is not None:
            self._metadata.close()
            self._metadata = None

    def _show_addresses(self, address: str) -> None:
        nic = self.record.nics[0]
        nic.private_ip_address = address
        nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": address}]
        if nic.public_ip_auto_assign:
            nic.public_ip = address

    def _set(self, state: str) -> None:
        self.events.append(Event(time.monotonic(), state))
        self.record.set_state(state, CODES[state])

    def _in_thread(self, work: Any) -> None:
        thread = threading.Thread(target=work, name=f"{self.id}", daemon=True)
        self._threads.append(thread)
        thread.start()
