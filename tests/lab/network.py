"""The lab's network: one bridge on this machine, a way out for its hosts, and a link for each."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab.process import run
from tests.lab.record import Record, links, remove_namespace


class Network:
    """10.231.N.0/24, with this machine at .1 and its hosts from .11 on."""

    def __init__(self, record: Record) -> None:
        self.name = record.name
        self.prefix = f"10.231.{record.number}"
        self.number = record.number
        self.mtu = _mtu_outwards()

    def up(self) -> None:
        """Make the bridge, and let its hosts reach what this machine reaches."""
        run(["ip", "link", "add", self.name, "type", "bridge"])
        run(["ip", "link", "set", self.name, "mtu", str(self.mtu)])
        run(["ip", "addr", "add", f"{self.prefix}.1/24", "dev", self.name])
        run(["ip", "link", "set", self.name, "up"])
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for chain in (
            ["FORWARD", "-i", self.name, "-j", "ACCEPT"],
            ["FORWARD", "-o", self.name, "-j", "ACCEPT"],
        ):
            run(["iptables", "-w", "-I", *chain])
        own = f"{self.prefix}.0/24"  # which this machine, at .1 of it, reaches by its loopback
        outwards = ["POSTROUTING", "-s", own, "!", "-d", own, "!", "-o", self.name, "-j", "MASQUERADE"]
        run(["iptables", "-w", "-t", "nat", "-A", *outwards])

    def address(self, index: int) -> str:
        return f"{self.prefix}.{11 + index}"

    def link(self, index: int) -> str:
        """The name of this machine's end of a host's link."""
        return f"{self.name}h{index}"

    def plug(self, namespace: str, index: int) -> None:
        """Make a host's network namespace and its link.

        The MAC address is fixed: a host that comes back with another one can't be reached for over a minute.
        """
        self.unplug(namespace, index)
        mac = f"02:00:0a:e7:{self.number:02x}:{11 + index:02x}"
        run(["ip", "netns", "add", namespace])
        peer = ["peer", "name", "eth0", "address", mac, "mtu", str(self.mtu), "netns", namespace]
        run(["ip", "link", "add", self.link(index), "mtu", str(self.mtu), "type", "veth", *peer])
        run(["ip", "link", "set", self.link(index), "master", self.name, "up"])
        for words in (
            ["addr", "add", f"{self.address(index)}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
            ["route", "add", "default", "via", f"{self.prefix}.1"],
        ):
            run(["ip", "-n", namespace, *words])
        # A process that looked for the host too early may still learn that there is no route; the next one must not.
        run(["ip", "neigh", "del", self.address(index), "dev", self.name], check=False)

    def unplug(self, namespace: str, index: int) -> None:
        """Take the link away first, so that nothing of the host's end is heard, then all that lives there."""
        if self.link(index) in links(self.name):
            run(["ip", "link", "del", self.link(index)])
        if namespace in (words.split()[0] for words in run(["ip", "netns", "list"]).stdout.splitlines()):
            remove_namespace(namespace)

    def set_link(self, index: int, state: str) -> None:
        """`down` loses every packet without a word; `up` brings the link back."""
        run(["ip", "link", "set", self.link(index), state])


def _mtu_outwards() -> int:
    """The MTU of the link that leads out of this machine; 1500 if none does."""
    routes = json.loads(run(["ip", "-j", "route", "show", "default"]).stdout or "[]")
    if not routes:
        return 1500
    return int(json.loads(run(["ip", "-j", "link", "show", routes[0]["dev"]]).stdout)[0]["mtu"])
