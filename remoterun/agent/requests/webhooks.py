"""Requests about word of runs."""

from __future__ import annotations

import os
from typing import Dict

from ..running.webhooks import post, sample_notification
from ..shared import api
from ..shared.webhooks import BadAddress, check_address
from ..store.errors import HomeError
from ..store.http_client import HttpError
from . import Call, Handler


def notify_test(_: Call, asked: api.Webhook) -> api.WebhookAnswer:
    try:
        answer = post(check_address(asked.address), sample_notification(os.uname().nodename))
    except (BadAddress, HttpError) as error:
        raise HomeError("not_notified", str(error))
    return api.WebhookAnswer(answer.status, answer.said)


HANDLERS: Dict[str, Handler] = {"notify_test": notify_test}
