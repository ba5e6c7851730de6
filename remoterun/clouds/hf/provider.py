"""Hugging Face Jobs as a provider: https://huggingface.co/docs/hub/jobs.

A host is a job. Its server ends it after `timeoutSeconds`, which are given as it is made, and are listed as `timeout`;
the end of its first process, which is ours, ends it, too, and what is paid for. It is reached through Hugging Face's
own SSH server, by keys of the user's account. A bucket of the user's is mounted into it, so it has no credential of
ours.

The library's session and login are used, but not its `run_job` and `list_jobs`, which have no deadline. What is asked
and answered stands in its OpenAPI document, to which the tests hold all traffic.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.records import parse
from remoterun.clouds import front
from remoterun.clouds.base import Busy, Identity, NoCapacity, Offer, ProviderError, ProviderUnreachable, Spent
from remoterun.clouds.folder import SharedProxy
from remoterun.clouds.hf.front import INSTALL, LOGIN, HuggingFaceFront
from remoterun.clouds.hf.hardware import read, table
from remoterun.clouds.host_name import HostName
from remoterun.clouds.simple import Simple
from remoterun.clouds.vendor import SERVER, ListedHost, Order, Vendor, skew_of
from remoterun.config import Config
from remoterun.errors import NotFound, RemoterunError
from remoterun.model import MachineType, Rental

IMAGE = "python:3.12-slim"
MOUNT = "/mnt/remoterun"
"""The bucket's folder in a host."""
SECONDS = 30.0
"""Of one call."""
MARK = "made-by", "remoterun"
"""The label of all hosts of ours. Another one, `name`, has what a name has (`host_name.py`)."""
PROXY = "ssh.hf.jobs"
"""Its SSH server."""
KEYS = (
    "https://huggingface.co/settings/keys   has to have your public key: `cat ~/.ssh/id_*.pub` shows it\n"
    "ssh-keygen -t ed25519   makes one, if you have none\n"
    "ssh-add   where it has a passphrase"
)
STATES = {"SCHEDULING": "pending", "RUNNING": "running", "ERROR": "gone"}
"""Those that are listed: of hosts that have ended only where there is something to say about it."""
ENDED = ("COMPLETED", "CANCELED", "DELETED")
"""The other states."""
PAGES = 100
"""Of a list, at the most."""
BILLING = "https://huggingface.co/settings/billing"
CANCELLED = {
    "NO_CREDITS": f"the account's credit is used up: {BILLING} adds some",
    "NO_SUBSCRIPTION": f"the account has no subscription that allows it: {BILLING}",
    "RESOURCE_GROUP_LIMIT": f"its resource group has reached its limit: {BILLING}",
}
"""`cancelReason` of a host that Hugging Face itself has ended, in words."""


class HuggingFace(Simple):
    def __init__(self, config: Config) -> None:
        super().__init__(config.home)
        self._jobs = Jobs(config)

    def vendors(self) -> Sequence[Vendor]:
        return [self._jobs]

    def vendor_of(self, rental: Rental) -> Vendor:
        return self._jobs

    def checks(self, machine: MachineType | None = None) -> list[MachineCheck]:
        """Where its account can't be asked, no more than that."""
        found = super().checks(machine)
        if any(check.ok is False for check in found):
            return found
        types = machine.rental.types if machine is not None and machine.rental is not None else ()
        try:
            offers = self._jobs.offers(Rental(self._jobs.key, types), True) if types else []
            prices = [f"{it.type} " + (f"${it.price:.2f} an hour" if it.price else it.unpriced) for it in offers]
            detail = ", ".join(prices) or f"of {len(self._jobs.hardware())} types"
            found.append(MachineCheck("hf: prices", True, detail))
        except RemoterunError as error:
            found.append(MachineCheck("hf: prices", False, error.message, error.hint))
        bucket = self._jobs.bucket()
        detail = f"{bucket} will be mounted" if bucket else "[archive] names none of theirs: nothing is mounted"
        only = "its server has to know your public key; it is asked once a host runs"
        return [*found, MachineCheck("hf: bucket", True, detail), MachineCheck("hf: SSH", None, only, KEYS)]

    def spent(self, since: float, until: float) -> list[Spent]:
        """What its bill of this period says. It has none of an organization."""
        of = self._jobs.identity()
        if of.account != of.name:
            return []
        billed = self._jobs._ask("GET", "/api/settings/billing/usage/jobs")[0]["usage"]["jobDetails"]
        ours = {each.id: HostName.read(each.name) for each in self._jobs._list([("label", "=".join(MARK))])}
        return [
            Spent(str(each["startedAt"])[:10], each["totalCostMicroUsd"] / 1e6, known.token)
            for each in billed
            if (known := ours.get(each["jobId"])) and since <= _moment(each["startedAt"]) <= until + self._jobs.skew
        ]


class Gone(ProviderError):
    """What was asked about is not there."""


class Jobs:
    """A `Vendor`."""

    key, unit, settle = "hf", HuggingFaceFront.unit, 60.0

    def __init__(self, config: Config) -> None:
        self._config, self._settings = config, front("hf").of(config)
        self.proxy = SharedProxy("hf", PROXY, config.ssh_config or Path.home() / ".ssh" / "config", KEYS)
        self._namespace: str = self._settings.namespace or ""
        self._hardware: dict[str, Offer] = {}
        self.skew = 0.0

    def ends(self) -> tuple[str, str]:
        return SERVER, ""

    def folder(self) -> tuple[str, str]:
        return (MOUNT, self.bucket()) if self.bucket() else ("", "")

    def bucket(self) -> str:
        """The bucket of the archive as NAMESPACE/NAME, if it is one of theirs."""
        place, buckets = self._config.archive, self._settings.buckets.rstrip("/") + "/"
        is_theirs = place.bucket and (place.endpoint or "").startswith(buckets)
        return f"{str(place.endpoint).removeprefix(buckets).strip('/')}/{place.bucket}" if is_theirs else ""

    def hardware(self) -> Mapping[str, Offer]:
        """What it has now, by type."""
        with _readable():
            self._hardware = read(self._ask("GET", "hardware")[0])
        return self._hardware

    def offers(self, rental: Rental, live: bool) -> list[Offer]:
        known = self.hardware() if live or not set(rental.types) <= table().keys() else table()
        if unknown := [type for type in rental.types if type not in known]:
            what = f"Hugging Face has no type `{', '.join(unknown)}`"
            raise NotFound(what, hint=f"it has {', '.join(known)}")
        return [known[type] for type in rental.types]

    def create(self, order: Order) -> None:
        spec: dict[str, Any] = {
            "dockerImage": order.image or IMAGE,
            "command": ["/bin/sh", "-c", order.start],
            "arguments": [],
            "environment": {},
            "flavor": order.offer.type,
            "timeoutSeconds": order.seconds,
            "labels": {MARK[0]: MARK[1], "name": order.name},
            "ssh": {"enabled": True},
        }
        if bucket := self.bucket():
            spec["volumes"] = [{"type": "bucket", "source": bucket, "mountPath": MOUNT}]
        self._ask("POST", self._account(), json=spec)

    def hosts(self) -> list[ListedHost]:
        return self._list([("label", "=".join(MARK)), *(("stage", each) for each in STATES)])

    def ended(self, name: str) -> ListedHost | None:
        return next((each for each in self._list([("label", f"name={name}")]) if each.name == name), None)

    def _list(self, asked: list[tuple[str, str]] | None) -> list[ListedHost]:
        found, url, pages = list[ListedHost](), self._account(), set[str]()
        while url:
            pages.add(url)
            jobs, url = self._ask("GET", url, params=asked)
            if not isinstance(jobs, list) or url in pages or len(pages) > PAGES:
                raise ProviderError("what Hugging Face answers is no list of jobs that comes to an end")
            with _readable():
                found += [self._listed(each if isinstance(each, dict) else {}) for each in jobs]
            asked = None
        return found

    def _listed(self, job: Mapping[str, Any]) -> ListedHost:
        status, labels, limit = _table(job, "status"), _table(job, "labels"), job.get("timeout")
        began, ended = _moment(job.get("startedAt") or job.get("createdAt")), _moment(job.get("finishedAt"))
        type, now, cancelled = str(job.get("flavor", "")), time.time() + self.skew, status.get("cancelReason")
        ends = (began or now) + limit if isinstance(limit, (int, float)) and limit else None
        address, port, user = _way(status.get("sshUrl"))
        offer, stage = (self._hardware or table()).get(type), str(status.get("stage"))
        state = STATES.get(stage, "gone" if stage in ENDED else "running")
        why = str(cancelled or status.get("message") or ("" if stage in (*STATES, *ENDED) else f"its stage is {stage}"))
        return ListedHost(
            str(job.get("id", "")),
            str(labels.get("name", "")),
            state,
            type,
            price=None if offer is None else offer.price,
            began=began,
            ends=ends,
            ended=ended or None,
            was_ended=stage == "CANCELED" and not cancelled,
            taken_away=bool(cancelled) or (stage == "ERROR" and (ended or now) < (ends or 0.0)),
            address=address,
            port=port,
            user=user,
            why=CANCELLED.get(str(cancelled), why[:500]),
        )

    def delete(self, id: str) -> None:
        with contextlib.suppress(Gone):
            self._ask("POST", f"{self._account()}/{id}/cancel")

    def identity(self) -> Identity:
        with _readable():
            name = str(self._ask("GET", "/api/whoami-v2")[0]["name"])
        return Identity(name, self._settings.namespace or name, "")

    def _account(self) -> str:
        """The namespace that pays."""
        self._namespace = self._namespace or self.identity().account
        return self._namespace

    def _ask(self, method: str, path: str, **more: Any) -> tuple[Any, str]:
        """What a call is answered with, and the address of its next page, or "". `path`: below /api/jobs, or another
        one of its server. Raises `Gone`, `NoCapacity`, `ProviderError`, `ProviderUnreachable`."""
        try:
            import httpx2
            from huggingface_hub import constants, utils
            from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OIDCError
        except ImportError:
            what = "Hugging Face's library is not installed beside remoterun"
            raise ProviderError(what, hint=INSTALL)
        url = path if "://" in path else constants.ENDPOINT + (path if path[:1] == "/" else f"/api/jobs/{path}")
        try:
            headers = utils.build_hf_headers(token=True, library_name="remoterun")
            answer = utils.get_session().request(method, url, headers=headers, timeout=SECONDS, **more)
            if "Date" in answer.headers:
                self.skew = skew_of(self.key, parsedate_to_datetime(answer.headers["Date"]).timestamp())
            utils.hf_raise_for_status(answer)
            more_at = answer.links.get("next", {}).get("url", "")
            if more_at and not more_at.startswith(constants.ENDPOINT + "/"):  # it would be given the token
                raise ProviderError("the next page of what Hugging Face lists is not at Hugging Face")
            return parse(answer.content) if method == "GET" else None, more_at
        except LocalTokenNotFoundError:
            raise ProviderError("there is no login at Hugging Face here", hint=front(self.key).how_to_log_in)
        except HfHubHTTPError as error:
            raise _translated(method, error.response.status_code, error.server_message or str(error))
        except (OIDCError, NotImplementedError) as error:
            raise ProviderError(f"the login of this machine does not do: {error}", hint=LOGIN)
        except (httpx2.HTTPError, OSError, OverflowError, ValueError) as error:
            raise ProviderUnreachable(f"Hugging Face can't be asked: {error or type(error).__name__}")


def _translated(method: str, status: int, said: str) -> RemoterunError:
    what, said = f"Hugging Face answers {status}", " ".join(said.split())[:500]
    if status == 404:
        return Gone(f"{what}: {said}", hint="remoterun doctor hf")
    if (method, status) == ("POST", 503) and "capacity" in said.lower():
        return NoCapacity(said)
    if status in (429, 503):
        return Busy(f"{what}: {said}", hint="try again in some minutes")
    if status >= 500:
        return ProviderUnreachable(f"{what}: {said}")
    hints = {
        401: LOGIN,
        402: f"{BILLING}   adds credit",
        403: LOGIN,
    }
    return ProviderError(f"{what}: {said}", hint=hints.get(status, "remoterun doctor hf"))


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """What can't be read of an answer as a whole is a `ProviderError`; of one job, it is left out."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ProviderError(f"what Hugging Face answers can't be read: {error!r}"[:500])


def _table(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return found if isinstance(found := record.get(name), dict) else {}


def _moment(text: object) -> float:
    """Seconds since 1970 of "2026-11-30T16:06:25.079Z"; 0 without one."""
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else 0.0
    return 0.0


def _way(address: object) -> tuple[str, int, str]:
    """(host, port, user) of "ssh://JOB@ssh.hf.jobs"; ("", 22, "") without one."""
    with contextlib.suppress(ValueError):
        way = urlsplit(address if isinstance(address, str) else "")
        return way.hostname or "", way.port or 22, way.username or ""
    return "", 22, ""
