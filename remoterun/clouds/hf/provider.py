"""Hugging Face Jobs as a provider: https://huggingface.co/docs/hub/jobs.

A host is a job. Its server ends it after `timeoutSeconds`, which are given as it is made; the end of its first process,
which is ours, ends it, too, and what is paid for. It is reached through Hugging Face's own SSH server, by keys of the
user's account. A bucket of the user's is mounted into it, so it has no credential of ours.

The library's session and login are used, but not its `run_job` and `list_jobs`: these have no deadline, and the hosts
that they list have lost their `timeoutSeconds`, which its API has (`ApiJob` of @huggingface/hub, in TypeScript).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from remoterun.agent.shared.api import MachineCheck
from remoterun.clouds import front
from remoterun.clouds.base import Identity, NoCapacity, Offer, ProviderError, ProviderUnreachable
from remoterun.clouds.folder import SharedProxy
from remoterun.clouds.hf.front import INSTALL, LOGIN
from remoterun.clouds.hf.hardware import read, table
from remoterun.clouds.simple import Simple
from remoterun.clouds.vendor import SERVER, ListedHost, Order, Vendor
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
KEYS = (
    "https://huggingface.co/settings/keys   has to have your public key: `cat ~/.ssh/id_*.pub` shows it\n"
    "ssh-keygen -t ed25519   makes one, if you have none\n"
    "ssh-add   where it has a passphrase"
)
STATES = {"SCHEDULING": "pending", "RUNNING": "running", "ERROR": "gone"}
"""Those that are listed: of hosts that have ended only where there is something to say about it."""


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


class Gone(ProviderError):
    """What was asked about is not there."""


class Jobs:
    """A `Vendor`."""

    key, unit = "hf", 60.0

    def __init__(self, config: Config) -> None:
        self._config, self._settings = config, front("hf").of(config)
        self.proxy = SharedProxy("hf", config.ssh_config or Path.home() / ".ssh" / "config", KEYS)
        self._namespace: str = self._settings.namespace or ""
        self._hardware: dict[str, Offer] = {}

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
        """What it has now, by type; asked once."""
        self._hardware = self._hardware or read(self._ask("GET", "hardware")[0])
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
        found, url = list[ListedHost](), self._account()
        while url:
            jobs, url = self._ask("GET", url, params=asked)
            found += map(self._listed, jobs)
            asked = None
        return found

    def _listed(self, job: Mapping[str, Any]) -> ListedHost:
        status, labels, limit = job.get("status") or {}, job.get("labels") or {}, job.get("timeoutSeconds")
        began, ended = _moment(job.get("startedAt") or job.get("createdAt")), _moment(job.get("finishedAt"))
        type, ends = str(job.get("flavor", "")), (began or time.time()) + float(limit) if limit else None
        way, offer = urlsplit(status.get("sshUrl") or ""), (self._hardware or table()).get(type)
        return ListedHost(
            str(job["id"]),
            str(labels.get("name", "")),
            STATES.get(str(status.get("stage")), "gone"),
            type,
            price=None if offer is None else offer.price,
            began=began,
            ends=ends,
            ended=ended or None,
            was_ended=status.get("stage") == "CANCELED",
            taken_away=status.get("stage") == "ERROR" and (ended or time.time()) < (ends or 0.0),
            address=way.hostname or "",
            port=way.port or 22,
            user=way.username or "",
            why=str(status.get("message") or ""),
        )

    def delete(self, id: str) -> None:
        with contextlib.suppress(Gone):
            self._ask("POST", f"{self._account()}/{id}/cancel")

    def identity(self) -> Identity:
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
            utils.hf_raise_for_status(answer)
            return answer.json() if method == "GET" else None, answer.links.get("next", {}).get("url", "")
        except LocalTokenNotFoundError:
            raise ProviderError("there is no login at Hugging Face here", hint=front(self.key).how_to_log_in)
        except HfHubHTTPError as error:
            raise _translated(error.response.status_code, error.server_message or str(error))
        except (OIDCError, NotImplementedError) as error:
            raise ProviderError(f"the login of this machine does not do: {error}", hint=LOGIN)
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise ProviderUnreachable(f"Hugging Face can't be asked: {error or type(error).__name__}")


def _translated(status: int, said: str) -> RemoterunError:
    what, said = f"Hugging Face answers {status}", " ".join(said.split())[:500]
    if status == 404:
        return Gone(f"{what}: {said}", hint="remoterun doctor hf")
    if status == 503 and "capacity" in said.lower():
        return NoCapacity(said)
    if status == 429 or status >= 500:
        return ProviderUnreachable(f"{what}: {said}")
    hints = {
        401: LOGIN,
        402: "https://huggingface.co/settings/billing   adds credit",
        403: LOGIN,
    }
    return ProviderError(f"{what}: {said}", hint=hints.get(status, "remoterun doctor hf"))


def _moment(text: object) -> float:
    """Seconds since 1970 of "2026-11-30T16:06:25.079Z"; 0 without one."""
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) and text else 0.0
