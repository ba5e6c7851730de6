"""Requests about the machine and the upkeep of its home."""

from __future__ import annotations

from typing import Dict

from ..shared import api
from ..shared.digests import unpacked
from ..upkeep import check as checking
from ..upkeep import doctor as examining
from ..upkeep import gc
from ..upkeep import usage as using
from . import Call, Handler


def doctor(call: Call, asked: api.Examine) -> api.MachineChecks:
    return api.MachineChecks(examining.examine(call.home, asked.engine, asked.gpus, asked.base))


def check(call: Call, asked: api.CheckHome) -> api.CheckTotals:
    return checking.Check(call.home, asked.repair, call.stream.send).run()


def mend(call: Call, _: api.Nothing) -> api.Nothing:
    wanted = set(unpacked(call.stream.read()))
    checking.mend(call.home, wanted, call.stream.send)
    call.delivery.lease.settle(wanted)
    return api.Nothing()


def blobs(call: Call, _: api.Nothing) -> api.Nothing:
    for digest in unpacked(call.stream.read()):
        checking.send_blob(call.home, digest.hex(), call.stream)
    return api.Nothing()


def collect(call: Call, asked: api.Collect) -> api.CollectTotals:
    return gc.Collection(call.home, asked.keep, asked.envs, asked.unused, asked.dry_run, call.stream.send).run()


def usage(call: Call, _: api.Nothing) -> api.UsageTotals:
    return using.UsageReport(call.home, call.stream.send).run()


HANDLERS: Dict[str, Handler] = {
    "doctor": doctor,
    "check": check,
    "mend": mend,
    "blobs": blobs,
    "collect": collect,
    "usage": usage,
}
