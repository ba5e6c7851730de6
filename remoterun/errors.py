"""Every error that remoterun raises on purpose.

    RemoterunError            exit 125: remoterun failed, your command did not get to say
    ├── UsageError            exit 2: what was typed can't be done
    │   ├── ConfigError         a file or a flag holds something we don't know
    │   ├── NotFound            a run, an upload, a path, a machine type that isn't there
    │   └── AlreadyExists       a file or a name that we won't overwrite
    ├── SourceError           the git work tree can't be sent as asked (NoRepository: in `source`)
    ├── HostError             the machine can't be used
    │   ├── HostUnreachable     no answer, refused, no route, time-out
    │   │   └── NoAnswerInTime    it was given some seconds, and may answer later
    │   ├── HostKeyError        unknown or changed host key
    │   ├── AuthenticationError  the host refused every key
    │   ├── AgentError          the agent can't start there (python3, versions, disk)
    │   ├── LinkLost            the connection broke under a request; the run goes on
    │   └── HomeMissing         the home that has the run is not there any more, or another one is in its place
    └── TransferError         data arrived damaged, or changed while it was read
        ├── AddressExpired      a host may fetch no more from an address that was signed for it
        ├── AddressMoved        the server of such an address names another one, which no host follows
        ├── SomeDamaged         some files are damaged on their machine; the others were copied
        └── UnsafePath          a path from a host that would leave the target

An error carries what failed (`message`, a line without a full stop), the `evidence` (such as a log's tail) and the
`hint`: the next command to type, or a keyword of the library (`max_cost=5`), of which `cli.render` makes an option.

Who waits for a run asks again after an error that is `passing`, and ends with any other one: no time mends it.
"""

from __future__ import annotations

from typing import Any

REINSTALL = "install it again from its repository: `pipx install --force .`"


class RemoterunError(Exception):
    """The root. `message` is one line without a full stop; `hint` names the next command."""

    exit_status = 125
    passing = False

    def __init__(self, message: str, *, hint: str | None = None, evidence: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence


class UsageError(RemoterunError):
    exit_status = 2


class ConfigError(UsageError):
    pass


class NotFound(UsageError):
    pass


class AlreadyExists(UsageError):
    pass


class SourceError(RemoterunError):
    pass


class HostError(RemoterunError):
    pass


class HostUnreachable(HostError):
    passing = True


class NoAnswerInTime(HostUnreachable):
    """It was given some seconds, and may answer later."""


class HostKeyError(HostError):
    pass


class AuthenticationError(HostError):
    pass


class NoLogin(AuthenticationError):
    """There is no login at a provider here, so it was not asked."""


class AgentError(HostError):
    pass


class LinkLost(HostError):
    passing = True


class HomeMissing(HostError):
    pass


class TransferError(RemoterunError):
    pass


class AddressExpired(TransferError):
    pass


class AddressMoved(TransferError):
    pass


class UnsafePath(TransferError):
    pass


class SomeDamaged(TransferError):
    """`fetched`: what was copied, a `transfer.Fetched`."""

    def __init__(self, message: str, fetched: Any, *, hint: str | None = None, evidence: str | None = None) -> None:
        super().__init__(message, hint=hint, evidence=evidence)
        self.fetched = fetched
