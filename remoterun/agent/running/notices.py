"""How a host learns that its provider takes it away: `NOTICES`, by the word in its terms."""

from __future__ import annotations

import calendar
import json
import time
from typing import Callable, Dict, Optional

from ..store.http_client import HttpClient, HttpError

Notices = Callable[[], Optional[float]]
"""When the host is taken away (seconds since 1970), None as long as nothing is known of it. Blocks a few seconds at the
most, and may be asked again and again. Raises `HttpError`."""

ADDRESS = "http://169.254.169.254/latest/"
"""Of AWS's instance metadata service, which answers each instance of itself."""
TOKEN_SECONDS = 21600
NOTICE = 120.0
"""Seconds that a notice gives, where it does not say in words that we know."""
SILENCE = 2.0


class AwsNotices:
    """The notice that a spot instance is interrupted, by the metadata service's version 2."""

    def __init__(self, address: str = ADDRESS) -> None:
        self._address = address
        self._http = HttpClient(proxies=False, silence=SILENCE)
        self._token = ""

    def __call__(self) -> Optional[float]:
        try:
            told = self._read("meta-data/spot/instance-action")
        except HttpError as error:
            if error.status == 401:  # the token's time is up
                self._token = ""
            if error.status in (401, 404):
                return None
            raise
        return _time_of(told)

    def _read(self, path: str) -> bytes:
        if not self._token:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            self._token = self._ask("PUT", "api/token", wanted).decode("ascii", "replace").strip()
        return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, path: str, headers: Dict[str, str]) -> bytes:
        with self._http.ask(method, self._address + path, headers) as answer:
            return answer.read(4096)


def _time_of(told: bytes) -> float:
    """A notice that can't be read is one all the same."""
    try:
        return float(calendar.timegm(time.strptime(json.loads(told)["time"], "%Y-%m-%dT%H:%M:%SZ")))
    except (ValueError, KeyError, TypeError):
        return time.time() + NOTICE


NOTICES: Dict[str, Callable[[], Notices]] = {"aws": AwsNotices}
