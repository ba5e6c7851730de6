"""Requests about the machine, and the upkeep of its home."""

from __future__ import annotations

import os

from ..running.queues import queue_named
from ..shared import api
from ..shared.webhooks import BadAddress, check_address
from ..store.errors import HomeError
from ..store.http_client import HttpError
from ..upkeep import doctor as examining
from ..upkeep import gc
from ..upkeep import usage as using
from ..upkeep.check import Check
from . import Call


def doctor(call: Call, asked: api.Examine) -> api.MachineChecks:
    return api.MachineChecks(examining.examine(call.home, asked))


def occupancy(call: Call, asked: api.Demand) -> api.Occupancy:
    return queue_named(call.home, asked.queue).occupancy(asked)


def notify_test(_: Call, asked: api.Webhook) -> api.WebhookAnswer:
    from ..running.webhooks import post, sample_notification

    try:
        return post(check_address(asked.address), sample_notification(os.uname().nodename))
    except (BadAddress, HttpError) as error:
        raise HomeError("not_notified", str(error))


def check(call: Call, asked: api.CheckHome) -> api.CheckTotals:
    return Check(call.home, asked.set_aside, call.stream.send).run()


def collect(call: Call, asked: api.Collect) -> api.CollectTotals:
    return gc.Collection(call.home, asked, call.stream.send).run()


def usage(call: Call, _: api.Nothing) -> api.UsageTotals:
    return using.UsageReport(call.home, call.stream.send).run()
