"""Calls to AWS: the one place that knows boto3, imported on first use. Its errors become ours here.

Every call has time limits and few tries, so none blocks for more than about two minutes. A refusal is one of three:
there is no capacity here, so the next offer is tried; AWS can't be asked now, which says nothing about a host; or it is
final, and the hint says what mends it. What AWS calls its errors stands in s3_codes.py.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.archive import EXPIRED
from remoterun.archive import s3_session
from remoterun.archive.s3_codes import DENIED, LATER, POLICY, UNKNOWN_KEY, account_fault, login_fault
from remoterun.clouds.base import ProviderError, ProviderUnreachable
from remoterun.errors import ConfigError, RemoterunError

if TYPE_CHECKING:
    from remoterun.clouds.aws.front import Settings


ORGANISATION = "ask who runs your AWS organisation: its own policy forbids this, perhaps in this region only"
CLOCK_SECONDS = 240.0
"""A clock that is wrong by more is what an error about signatures or expiry comes from: AWS allows five minutes."""


class Refused(ProviderError):
    """AWS said no; `code` is its own word for why ("UnauthorizedOperation")."""

    encoded = ""
    """AWS's reasons, which only AWS can read, and tells those who are allowed to know."""

    def __init__(self, code: str, message: str, *, hint: str | None = None, evidence: str | None = None) -> None:
        super().__init__(message, hint=hint, evidence=evidence)
        self.code = code


class NoCapacityHere(Refused):
    """This type can't be had in this zone now; perhaps in another."""


class QuotaReached(Refused):
    """The account may not have so many of them."""


CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "Unsupported",
    "SpotMaxPriceTooLow",
}
QUOTA = {"VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "InstanceLimitExceeded"}
ENCODED = re.compile(r"[.\s]*Encoded authorization failure message:\s*(\S+)")
LINK = {
    *("HTTPClientError", "ConnectionError", "EndpointConnectionError", "ResponseStreamingError"),
    "ResponseParserError",  # something on the way answers in place of AWS
}
OWN = {"InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed", "InvalidGroup.NotFound", "InvalidGroupId.Malformed"}
GONE = re.compile(r"Invalid.*(NotFound|Malformed)|.*\.NotFound|(Parameter|Resource)NotFound(Exception)?")
"""What is said of something that isn't there."""


def translate(error: Exception, service: str, operation: str, region: str, clock_skew: float) -> Exception:
    """Our error for one of botocore's. `clock_skew`: seconds that AWS's clock is ahead of ours."""
    response = getattr(error, "response", None)
    answer = response if isinstance(response, dict) else {}
    code = str(answer.get("Error", {}).get("Code", "")) or type(error).__name__
    said = str(answer.get("Error", {}).get("Message", "")) or str(error)
    said, encoded = ENCODED.sub("", said), ENCODED.search(said)
    evidence = f"{service}:{operation} in {region}: {code}: {said}"[:2000]
    if code in CAPACITY:
        return NoCapacityHere(code, f"{code}: {said}")
    if code in QUOTA:
        return QuotaReached(code, "the account's limit is reached", evidence=evidence)
    if code in ("VPCIdNotSpecified", "DefaultVpcDoesNotExist", "MissingInput"):
        return no_default_vpc(region, said, code)
    if fault := account_fault(code, said, region):
        return Refused(code, fault[0], evidence=evidence, hint=fault[1])
    if (code in EXPIRED or code in UNKNOWN_KEY) and abs(clock_skew) > CLOCK_SECONDS:
        return clock_error(clock_skew, evidence)
    if fault := login_fault(code if answer else error):
        return Refused(code, fault[0], evidence=evidence, hint=fault[1])
    if code == "InvalidInstanceType":
        hint = "remoterun machines --all   lists those with a name"
        return Refused(code, "there is no machine of this type here", evidence=evidence, hint=hint)
    if code in DENIED and getattr(error, "operation_name", "").startswith("AssumeRole"):
        message = "the role of this AWS profile can't be assumed: a wrong MFA code, or one that this user may not have"
        return Refused(code, message, evidence=evidence, hint="aws sts get-caller-identity   asks again")
    if code in DENIED:
        named = re.search(r"not authorized to perform:? ([A-Za-z0-9-]+:[A-Za-z0-9]+)", said)
        action = named[1] if named else f"{service}:{_action(operation)}"
        hint = ORGANISATION if "service control policy" in said else POLICY
        refused = Refused(code, f"these credentials may not do `{action}`", evidence=evidence, hint=hint)
        refused.encoded = encoded[1] if encoded else ""
        return refused
    if not answer and not LINK.isdisjoint(cls.__name__ for cls in type(error).__mro__):
        hint = f"is this machine online? is `{region}` the name of a region?"
        return ProviderUnreachable(f"AWS can't be reached ({service} in {region})", evidence=evidence, hint=hint)
    if code in LATER or answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        return ProviderUnreachable(f"AWS can't answer now ({code})", evidence=evidence, hint="try again in a minute")
    if not answer:
        return Refused(code, f"AWS's library refuses the call: {error}", hint="remoterun doctor aws")
    own = f"`subnet` and `security_group` below [aws] in config.toml have to be of {region}"
    mends = own if code in OWN else "remoterun doctor aws   tries all that remoterun needs"
    return Refused(code, f"AWS refuses {service}:{_action(operation)} ({code})", evidence=evidence, hint=mends)


def clock_error(clock_skew: float, evidence: str | None = None) -> Refused:
    """`clock_skew`: seconds that AWS's clock is ahead of ours."""
    minutes, way = abs(clock_skew) / 60, "slow" if clock_skew > 0 else "fast"
    message = f"this machine's clock is {minutes:.0f} minutes {way}: AWS accepts no signature of it"
    return Refused("ClockSkew", message, evidence=evidence, hint="sudo timedatectl set-ntp true")


def no_default_vpc(region: str, said: str = "", code: str = "VPCIdNotSpecified") -> Refused:
    message = f"the account has no default network (VPC) in {region}"
    mended = f"aws ec2 create-default-vpc --region {region}   costs nothing"
    own = 'or, in a network of your own: subnet = "subnet-…", and security_group = "sg-…", below [aws] in config.toml'
    return Refused(code, message, evidence=said or None, hint=f"{mended}\n{own}")


def _action(operation: str) -> str:
    """`run_instances` as IAM writes it: `RunInstances`."""
    return "".join(word.title() for word in operation.split("_"))


def is_gone(error: Exception) -> bool:
    """Whether AWS said that what was named is not there."""
    return isinstance(error, Refused) and GONE.fullmatch(error.code) is not None


def reason_of(state: dict[str, Any]) -> str:
    """AWS's words for why an instance is in its state."""
    return str((state.get("StateReason") or {}).get("Message") or state.get("StateTransitionReason") or "")


CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
TRIES = 4
REPEATS = (2.0, 4.0, 8.0, 16.0)
"""Seconds before a call without an answer is repeated, or one about what AWS does not know yet."""
DEFAULT_REGION = "us-east-1"
ONCE = frozenset({"run_instances"})
"""Operations that are sent once a call: `acquire` has its own way of repeating them."""


class Calls:
    """A user's calls to AWS, in any region. Any thread may use it. `clock_skew`: how many seconds AWS's clock is ahead
    of ours, by the last answer; 0 before the first one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self.clock_skew = 0.0

    @property
    def region(self) -> str:
        """The region of a machine type that names none. Raises `ConfigError` for a profile that is not there."""
        if self.settings.region:
            return self.settings.region
        named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or self._open().region_name
        return named or DEFAULT_REGION

    def __call__(self, service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one call (`"ec2", "describe_instances"`). Blocks. Raises what `translate` makes."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            client = self._client(service, region, operation in ONCE)
            answer: dict[str, Any] = getattr(client, operation)(**parameters)
        except ClientError as error:
            self._note(error.response)
            ours = translate(error, service, operation, region, self.clock_skew)
            if isinstance(ours, Refused) and ours.encoded and not parameters.get("DryRun"):
                self._explain(ours, region)
            raise ours from error
        except (BotoCoreError, ResponseParserError, EOFError) as error:
            raise translate(error, service, operation, region, self.clock_skew) from error
        self._note(answer)
        return answer

    def if_there(self, service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        """The answer of a call; an empty one where AWS says that what it names is not there."""
        try:
            return self(service, operation, region, **parameters)
        except Refused as refused:
            if not is_gone(refused):
                raise
            return {}

    def patiently(self, service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        """The answer of a call about something that was made just now: AWS may not know it, or what its role may do,
        for half a minute."""
        for pause in REPEATS:
            try:
                return self(service, operation, region, **parameters)
            except Refused as refused:
                if not is_gone(refused) and "execution role" not in (refused.evidence or ""):
                    raise
            time.sleep(pause)
        return self(service, operation, region, **parameters)

    def _explain(self, refused: Refused, region: str) -> None:
        """Let AWS say what exactly was refused, and by what, where these credentials may know."""
        try:
            told = self("sts", "decode_authorization_message", region, EncodedMessage=refused.encoded)["DecodedMessage"]
            record = json.loads(told)
            asked, denied = record["context"], record.get("explicitDeny")
            why = "a policy forbids it explicitly" if denied else "no policy allows it"
            line = f"{asked['action']} on {asked['resource']}: {why}"
        except (RemoterunError, ValueError, KeyError, TypeError):
            line = "to see AWS's reasons, these credentials need sts:DecodeAuthorizationMessage"
        refused.evidence = f"{refused.evidence}\n{line}"

    def pages(self, service: str, operation: str, region: str, key: str, **parameters: Any) -> list[Any]:
        """All that a call lists under `key`, over as many pages as there are."""
        found: list[Any] = []
        more: dict[str, Any] = {}
        while True:
            answer = self(service, operation, region, **parameters, **more)
            found += answer.get(key, [])
            more = {name: answer[name] for name in ("NextToken", "NextPageToken") if answer.get(name)}
            if not more:
                return found

    def _open(self) -> Any:
        """The session. Raises `ConfigError`."""
        from botocore.exceptions import BotoCoreError

        try:
            return s3_session.session(self.settings.profile, self.settings.region)
        except BotoCoreError as error:
            raise ConfigError(
                f"AWS's own configuration can't be used: {error}", hint="aws configure list-profiles"
            ) from error

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
                self._open()
                client = s3_session.client(service, self.settings.profile, region, config=settings)
                self._clients[service, region, once] = client
            return client

    def _note(self, answer: dict[str, Any]) -> None:
        """Learn from an answer's `Date` how AWS's clock goes."""
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        with contextlib.suppress(ValueError):
            self.clock_skew = email.utils.parsedate_to_datetime(date).timestamp() - time.time()
