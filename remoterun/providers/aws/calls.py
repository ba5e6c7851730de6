"""Calls to AWS: the one place that knows boto3, imported on first use. Its errors become ours here.

Every call has time limits and few tries, so none blocks for more than about two minutes.
"""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from remoterun.errors import ConfigError
from remoterun.providers.aws.refusals import translate

if TYPE_CHECKING:
    from remoterun.config import AWS

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
TRIES = 4
DEFAULT_REGION = "us-east-1"
ONCE = frozenset({"run_instances"})
"""Operations that are sent once a call: `acquire` has its own way of repeating them."""


class Calls:
    """A user's calls to AWS, in any region. Any thread may use it.

    `count` is how many calls were made; `clock_skew` how many seconds AWS's clock is ahead of ours, as the last answer
    told, 0 before the first one.
    """

    def __init__(self, settings: AWS) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self.count = 0
        self.clock_skew = 0.0

    @property
    def region(self) -> str:
        """The region of a machine type that names none. Raises `ConfigError` for a profile that is not there."""
        import os

        if self._settings.region:
            return self._settings.region
        with self._lock:
            named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or self._open().region_name
        return named or DEFAULT_REGION

    def __call__(self, service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one call (`"ec2", "describe_instances"`). Blocks. Raises what `refusals.translate` makes."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            client = self._client(service, region, operation in ONCE)
            with self._lock:
                self.count += 1
            answer: dict[str, Any] = getattr(client, operation)(**parameters)
        except ClientError as error:
            self._note(error.response)
            raise translate(error, service, operation, region, self.clock_skew) from error
        except (BotoCoreError, ResponseParserError) as error:
            raise translate(error, service, operation, region, self.clock_skew) from error
        self._note(answer)
        return answer

    def pages(self, service: str, operation: str, region: str, key: str, **parameters: Any) -> list[Any]:
        """All that a call lists under `key`, over as many pages as there are."""
        found: list[Any] = []
        token: dict[str, Any] = {}
        while True:
            answer = self(service, operation, region, **parameters, **token)
            found += answer.get(key, [])
            if not answer.get("NextToken"):
                return found
            token = {"NextToken": answer["NextToken"]}

    def endpoint(self, service: str, region: str) -> str:
        """The address that its calls go to."""
        return str(self._client(service, region, False).meta.endpoint_url)

    def in_all(self, regions: Sequence[str], ask: Callable[[str], list[Any]]) -> list[Any]:
        """What `ask` gives for each region, several at a time. Raises what the first one raised that failed."""
        from concurrent.futures import ThreadPoolExecutor

        for region in regions:
            self._client("ec2", region, False)  # they are made one after the other: botocore's session needs that
        with ThreadPoolExecutor(8) as pool:
            return [item for found in pool.map(ask, regions) for item in found]

    def _open(self) -> Any:
        """The session. Under the lock."""
        if self._session is None:
            import boto3
            from botocore.exceptions import BotoCoreError

            try:
                self._session = boto3.Session(profile_name=self._settings.profile)
            except BotoCoreError as error:
                raise ConfigError(
                    f"AWS's own configuration can't be used: {error}", hint="aws configure list-profiles"
                ) from error
        return self._session

    def _client(self, service: str, region: str, once: bool) -> Any:
        from botocore.config import Config

        with self._lock:
            client = self._clients.get((service, region, once))
            if client is None:
                settings = Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": 1 if once else TRIES},
                    max_pool_connections=10,
                )
                client = self._open().client(service, region_name=region, config=settings)
                self._clients[service, region, once] = client
            return client

    def _note(self, answer: dict[str, Any]) -> None:
        """Learn from an answer's `Date` how AWS's clock goes."""
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date:
            try:
                self.clock_skew = email.utils.parsedate_to_datetime(date).timestamp() - time.time()
            except ValueError:
                pass
