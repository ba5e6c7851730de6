"""Which machine a run belongs to, where several share a home."""

from __future__ import annotations

from remoterun.agent.shared.identity import Machine
from remoterun.agent.shared.records import from_json, to_json

BOX = Machine("1d", "box", "boot-1", "pid:[1]")


def test_the_same() -> None:
    assert Machine.this().is_same(Machine.this()) and from_json(Machine, to_json(BOX)) == BOX
    assert BOX.is_same(BOX._replace(boot="boot-2", processes="pid:[2]")), "it was started again"
    assert BOX.is_same(BOX._replace(name="renamed")), "it has the same processes"
    assert Machine("", "mac.local", "", "").is_same(Machine("", "mac.lan", "", "")), "nothing else is known of it"


def test_another() -> None:
    assert not BOX.is_same(Machine("1d", "box2", "boot-2", "pid:[1]")), "made from one image"
    assert not BOX.is_same(Machine("1e", "box", "boot-2", "pid:[1]")), "by one name"
    assert not BOX.is_same(Machine("1d", "container", "boot-1", "pid:[2]")), "one kernel, other processes"
