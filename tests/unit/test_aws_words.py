"""What is sent to AWS, what is told to a new host, and what AWS's errors are turned into: no call, no host."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.parsers
import pytest

from remoterun.agent.shared.machines import RentalTerms
from remoterun.clouds.aws import acquire, catalogue, image, network, quotas, tags
from remoterun.clouds.aws.acquire import client_token, launch_parameters
from remoterun.clouds.aws.calls import (
    Calls,
    NoCapacityHere,
    QuotaReached,
    Refused,
    is_gone,
    translate,
)
from remoterun.clouds.aws.catalogue import instead, offer, rental, table
from remoterun.clouds.aws.front import AWSFront, Settings
from remoterun.clouds.aws.image import HOST_IMAGE, Image
from remoterun.clouds.aws.provider import AWS
from remoterun.clouds.aws.quotas import quota_of
from remoterun.clouds.base import HostNeverCame, Intent, Offer, ProviderError, ProviderUnreachable
from remoterun.clouds.boot import first_session
from remoterun.clouds.boot.user_data import cloud_config, user_data
from remoterun.clouds.folder import HostFolder, home_mark
from remoterun.config import Config
from remoterun.errors import ConfigError, HostUnreachable
from remoterun.model import MachineType, Rental
from remoterun.threads import each as each_at_once
from tests import update_prices
from tests.recorder import Recorded
from tests.workshop import until

MACHINE = MachineType("t4", rental=Rental("aws", ("g4dn.xlarge",), disk=200))
INTENT = Intent("rr-01h-1", "01h", 16, 1, MACHINE, 1764326400.0, 600.0)
IMAGE = Image("ami-1", "Ubuntu", "/dev/sda1", 75)
TERMS = RentalTerms("rr-01h-1", 1764326400.0, 600.0, ["sudo", "-n", "shutdown", "-P", "now"])


# --- the catalogue ---


def test_every_name_is_a_type_with_known_facts() -> None:
    for name in (*catalogue.NAMES, *catalogue.GONE):
        asked = rental(name.upper())
        assert asked is not None
        assert asked.types[0] in table().types, name


def test_every_priced_type_has_facts_and_the_table_says_its_day() -> None:
    prices = table()
    time.strptime(prices.date, "%Y-%m-%d")
    for region, types in prices.regions.items():
        for type, price in types.items():
            assert type in prices.types or region != "us-east-1", type
            assert 0 < price < 1000


def test_what_stands_in_for_a_gpu_that_is_gone(recorded: Recorded) -> None:
    for name in ("k80", "k80x8", "p100", "v100", "a100"):
        asked = rental(name)
        assert asked is not None and asked.instead_of == name
        recorded.same(instead(name, offer(asked.types[0], "us-east-1")), name)


def test_an_offer_of_the_table() -> None:
    t4 = offer("g4dn.xlarge", "eu-central-1")
    assert (t4.vcpus, t4.memory, t4.gpus, t4.gpu, t4.gpu_memory) == (4, 16, 1, "T4", 16)
    assert (t4.price, t4.priced) == (0.658, table().date)
    spot = offer("g4dn.xlarge", "us-east-1", spot=True)
    assert (spot.price, spot.priced) == (None, "")
    live = offer("g4dn.xlarge", "us-east-1", "us-east-1a", spot=True, price=0.2)
    assert (live.price, live.priced) == (0.2, "now")
    assert live.extra == pytest.approx(100 * 0.08 / 730 + 0.005, abs=1e-5) and live.hourly == 0.2 + live.extra
    assert t4.extra == pytest.approx(100 * 0.0952 / 730 + 0.005, abs=1e-5)
    large = offer("m7i.large", "nowhere", disk=8000)
    assert large.extra == pytest.approx(8000 * 0.08 / 730 + 0.005, abs=1e-5)
    assert offer("x99.large", "nowhere").price is None


def test_the_quota_and_the_architecture_of_a_type(recorded: Recorded) -> None:
    def found(title: str) -> str:
        type, _, spot = title.partition(" ")
        quota = quota_of(type, spot == "spot")
        return f"{quota.code if quota else 'no quota that is known'}, {catalogue.architecture(type)}"

    recorded.cases(found)


# --- what is sent ---


@pytest.mark.parametrize("spot", [False, True], ids=["on-demand", "spot"])
def test_the_call_that_makes_a_host(spot: bool, recorded: Recorded) -> None:
    """A spot host is asked for once, at the price on demand at the most (what was said to be the most), and ends when
    it is taken."""
    chosen = offer("g4dn.xlarge", "us-east-1", "us-east-1b", spot=spot)
    sent = launch_parameters(chosen, IMAGE, 200, "sg-1", None if spot else "subnet-1")
    recorded.same(json.dumps(sent, indent=2))


def test_the_tags_of_a_host(recorded: Recorded) -> None:
    labels = tags.of_intent(INTENT, offer("g4dn.xlarge", "us-east-1"), "203.0.113.7/32", "mark")
    assert labels.pop("remoterun:owner") and labels.pop("remoterun:version")
    recorded.same(json.dumps(labels, indent=2))


def test_each_call_has_a_token_of_its_own_and_the_same_call_the_same() -> None:
    here, there = (offer("g4dn.xlarge", "us-east-1", zone) for zone in ("us-east-1a", "us-east-1b"))
    tokens = [client_token("rr-1", here, 1), client_token("rr-1", there, 1), client_token("rr-1", here, 2)]
    assert len({*tokens, client_token("rr-2", here, 1)}) == 4
    assert client_token("rr-1", here, 1) == tokens[0]
    assert all(len(token) <= 64 and token.isascii() for token in tokens)


def instance_of(listed: object, launched: float = 1764240000, **more: Any) -> dict[str, Any]:
    """An instance with these tags, as EC2 describes it."""
    about = {"InstanceId": "i-1", "InstanceType": "g4dn.xlarge", "State": {"Name": "running"}, "Tags": listed}
    return {**about, "LaunchTime": datetime.datetime.fromtimestamp(launched, datetime.UTC), **more}


def tags_of(chosen: Offer) -> object:
    return tags.specification("instance", tags.of_intent(INTENT, chosen, "203.0.113.7/32", "mark"))["Tags"]


def test_tags_come_back_as_the_host_that_they_were_made_for() -> None:
    chosen = offer("g4dn.xlarge", "us-east-1", "us-east-1b", spot=True, price=0.2)
    instance = instance_of(
        tags_of(chosen),
        InstanceLifecycle="spot",
        Placement={"AvailabilityZone": "us-east-1b"},
        State={"Name": "terminated"},
        StateReason={"Code": "Server.SpotInstanceTermination", "Message": "Spot instance termination"},
        StateTransitionReason="Server.SpotInstanceTermination (2025-11-27 12:00:00 GMT)",
    )
    rented = tags.rented_of(instance, "us-east-1")
    assert rented is not None
    assert rented.offer == chosen
    assert (rented.token, rented.run, rented.number, rented.attempt) == ("rr-01h-1", "01h", 16, 1)
    assert (rented.state, rented.preempted, rented.why) == ("gone", True, "Spot instance termination")
    assert not rented.was_ended
    by_user = {"Code": "Client.UserInitiatedShutdown", "Message": "User initiated shutdown"}
    ended = tags.rented_of({**instance, "StateReason": by_user}, "us-east-1")
    assert ended is not None and ended.was_ended and not ended.preempted
    assert (rented.began, rented.deadline) == (1764240000.0, 1764326400.0)
    assert rented.cost(rented.began + 3600) == pytest.approx(0.21596 * 80 / 60)
    assert rented.ended == 1764240000 + 4800
    stopped = tags.rented_of({**instance, "State": {"Name": "stopped"}}, "us-east-1")
    assert stopped is not None and stopped.hourly == pytest.approx(0.01096) and rented.hourly == 0
    assert tags.rented_of({**instance, "Tags": [{"Key": "Name", "Value": "remoterun 16"}]}, "us-east-1") is None


def test_two_homes_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    mark = home_mark(tmp_path / "home")
    assert home_mark(tmp_path / "home") == mark and HostFolder.all(tmp_path / "home") == []
    (tmp_path / "home").rename(tmp_path / "moved")
    assert home_mark(tmp_path / "moved") == mark != home_mark(tmp_path / "home")


def test_tags_that_make_no_sense_are_shown_as_far_as_they_do() -> None:
    listed = [{"Key": "remoterun:token", "Value": "x"}, {"Key": "remoterun:number", "Value": "many"}]
    rented = tags.rented_of(instance_of(listed), "us-east-1")
    assert rented is not None and (rented.number, rented.deadline) == (0, rented.began)


@pytest.mark.parametrize("text", ["203.0.113.7", "203.0.113.7/32", "203.0.113.0/24"])
def test_an_address_of_a_client(text: str) -> None:
    assert network.checked_address(text).startswith("203.0.113.")


def test_a_home_has_one_mark_whoever_asks_for_it_first(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from remoterun.clouds.folder import home_mark as m; print(m(pathlib.Path(sys.argv[1])))"
    )
    asked = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    found = {process.communicate(timeout=60)[0].decode().strip() for process in asked}
    homes = [tmp_path / str(number % 4) for number in range(32)]
    of_each = list(each_at_once(home_mark, homes))
    assert len(found) == 1 and found == {home_mark(tmp_path)}
    assert len(set(of_each)) == 4 and [home_mark(home) for home in homes] == of_each


class WhoAmI(BaseHTTPRequestHandler):
    """Says where it is asked from: `seen`."""

    seen = ""

    def do_GET(self) -> None:
        self.send_response(200 if self.seen else 502)
        self.end_headers()
        self.wfile.write(self.seen.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def who_am_i(seen: str) -> Iterator[str]:
    """The address of a server, which says that who asks it is at `seen`."""
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (WhoAmI,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("direct", "through_proxy", "found"),
    [
        ("203.0.113.7", "198.51.100.9", ["203.0.113.7/32", "198.51.100.9/32"]),
        ("203.0.113.7", "203.0.113.7", ["203.0.113.7/32"]),
        ("", "198.51.100.9", ["198.51.100.9/32"]),
        ("203.0.113.7", "", ["203.0.113.7/32"]),
        ("203.0.113.7", None, ["203.0.113.7/32"]),
    ],
)
def test_a_proxy_does_not_decide_alone_who_is_let_in(
    direct: str, through_proxy: str | None, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", network.ADDRESS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with who_am_i(direct) as server, who_am_i(through_proxy or "") as proxy:
        monkeypatch.setattr(network, "WHO_AM_I", server)
        if through_proxy is not None:
            monkeypatch.setenv("http_proxy", proxy)
        assert network.client_addresses(None) == found
        assert network.client_addresses("192.0.2.1") == ["192.0.2.1/32"]
    with pytest.raises(ProviderUnreachable):
        network.client_addresses(None)


def test_an_address_that_would_let_in_too_many_or_nobody(recorded: Recorded) -> None:
    for text in ("0.0.0.0/0", "10.0.0.0/8", "::1", "home", "203.0.113.7/24", "<html>", ""):
        with recorded.raises(ConfigError, f"`{text}`"):
            network.checked_address(text)


def test_a_rule_is_described_in_letters_that_aws_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "zoë{}")
    assert tags.owner().startswith("zoë__@")


def test_the_image_for_a_type() -> None:
    assert all("deeplearning" in name for name in image.parameters(offer("g4dn.xlarge", "us-east-1")))
    assert image.parameters(offer("m7g.large", "us-east-1"))[0].split("/")[-4:-2] == ["arm64", "hvm"]
    assert image.parameters(offer("m7i.large", "us-east-1"))[0].split("/")[-4:-2] == ["amd64", "hvm"]
    assert catalogue.disk_size(0, 20, IMAGE.size) == 75
    assert catalogue.disk_size(1, None, IMAGE.size) == catalogue.DISK["gpu"]


# --- what a host is told ---


@pytest.fixture
def folder(tmp_path: Path) -> HostFolder:
    folder = HostFolder(tmp_path, INTENT.token)
    folder.begin(INTENT)
    return folder


def test_user_data_is_what_cloud_init_reads(folder: HostFolder) -> None:
    data = user_data(HOST_IMAGE, folder, TERMS, 3600.0, acquire.USER_DATA_LIMIT)
    text = data.decode()  # it fits without being compressed
    assert len(data) <= 16 << 10
    first, _, rest = text.partition("\n")
    assert first == "#cloud-config"
    assert json.loads(rest) == cloud_config(HOST_IMAGE, folder, TERMS, 3600.0)


def test_a_host_whose_boot_goes_no_further_ends_as_well(folder: HostFolder) -> None:
    (command,) = cloud_config(HOST_IMAGE, folder, TERMS, 3600.0)["bootcmd"]
    assert command[:2] == ["systemd-run", "--no-block"]  # the system waits for it, and must not wait for the system
    assert {"--timer-property=DefaultDependencies=no", "--property=DefaultDependencies=no"} < {*command}
    assert "--on-active=3600s" in command and command[-3:] == ["/sbin/shutdown", "-P", "now"]


def test_a_host_of_an_image_without_our_user_ends_as_one_that_nobody_uses(tmp_path: Path) -> None:
    ended, settings = tmp_path / "ended", {"user": "nobody-of-that-name", "unused": 0.1, "terms": {"deadline": 1e12}}
    program = (
        f"from remoterun.clouds.boot import on_host; on_host.SHUTDOWN = ['touch', {str(ended)!r}];"
        f" on_host.watch({settings!r})"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as watch:
        until(ended.exists)
        watch.kill()


def test_a_user_data_that_is_too_long_for_aws_is_refused_here(folder: HostFolder) -> None:
    import secrets

    with pytest.raises(ValueError, match="bytes"):
        user_data(HOST_IMAGE, folder, TERMS._replace(token=secrets.token_hex(40000)), 60.0, acquire.USER_DATA_LIMIT)


def test_a_new_host_that_says_no_key_of_its_own_is_not_used(recorded: Recorded) -> None:
    keys = ('{"key": 5}', '{"key": "ssh-ed25519 AAAA"}', '{"key": "ecdsa-sha2-nistp256 A\\n*"}')
    for said in ("", "[]", "{}", *keys):
        with recorded.raises(HostNeverCame, f"`{said}`"):
            first_session._parsed(said)


# --- the folder of a host ---


def test_an_intent_is_on_disk_with_keys_and_stays(tmp_path: Path) -> None:
    folder = HostFolder(tmp_path, INTENT.token)
    assert folder.intent() is None and HostFolder.all(tmp_path) == []
    folder.begin(INTENT)
    before = {name: folder.text(name) for name in ("key", "host_key", "intent.json")}
    folder.begin(Intent(**{**INTENT.__dict__, "deadline": 1.0}))
    assert {name: folder.text(name) for name in before} == before
    assert folder.intent() == INTENT
    assert [each.token for each in HostFolder.all(tmp_path)] == [INTENT.token]
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert all((folder.path / name).stat().st_mode & 0o077 == 0 for name in before)
    folder.remove()
    folder.remove()
    assert HostFolder.all(tmp_path) == []


def test_keys_are_openssh_s_own(folder: HostFolder) -> None:
    told = subprocess.run(["ssh-keygen", "-y", "-f", str(folder.path / "key")], capture_output=True, text=True)
    assert told.stdout.split()[:2] == folder.text("key.pub").split()[:2], told.stderr


def test_one_process_at_a_time_acquires_a_host(
    folder: HostFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remoterun.clouds.folder.LOCK_SECONDS", 0.0)
    with folder.locked(print), pytest.raises(ProviderError), HostFolder(tmp_path, INTENT.token).locked(print):
        pass
    with HostFolder(tmp_path, INTENT.token).locked(print):
        pass


def test_a_host_for_which_no_call_was_made_is_not_searched_for(folder: HostFolder, tmp_path: Path) -> None:
    aws = AWS(Config(tmp_path))
    aws.calls = None  # type: ignore[assignment] # nobody is asked
    assert aws.find(INTENT.token) is None


# --- what AWS's errors mean ---


def refusal(code: str, message: str = "because", *, status: int = 400, skew: float = 0.0) -> Exception:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = botocore.exceptions.ClientError(response, "RunInstances")
    return translate(error, "ec2", "run_instances", "us-east-1", skew)


def test_what_each_code_is_turned_into(recorded: Recorded) -> None:
    """Whether it is tried elsewhere, and again; and what mends it. A code, and what AWS says with it."""

    def told(case: str) -> Exception:
        code, _, message = case.partition(": ")
        kind = refusal(code, message or "because")
        assert isinstance(refusal(code, message, status=500), NoCapacityHere) == isinstance(kind, NoCapacityHere)
        assert isinstance(kind, (NoCapacityHere, QuotaReached)) or kind.hint  # type: ignore[attr-defined]
        return kind

    recorded.cases(told)


class Account(Calls):
    """One with this limit, and these types at work."""

    def __init__(self, limit: int | None, *types: str, spot: bool = False) -> None:
        super().__init__(Settings(region="us-east-1"))
        self._limit, self._types, self._kind = limit, types, {"InstanceLifecycle": "spot"} if spot else {}

    def __call__(self, service: str, operation: str, region: str, **parameters: Any) -> Any:
        if service == "service-quotas":
            if self._limit is None:
                raise Refused("AccessDeniedException", "no")
            return {"Quota": {"Value": float(self._limit)}}
        assert operation == "describe_instances"
        return {"Reservations": [{"Instances": [{"InstanceType": each, **self._kind} for each in self._types]}]}


@pytest.mark.parametrize(
    ("account", "type", "spot", "value"),
    [
        (Account(0), "g4dn.xlarge", False, 4),
        (Account(4, "g4dn.xlarge"), "g4dn.xlarge", False, 8),
        (Account(4, "g4dn.xlarge"), "g4dn.xlarge", True, 8),  # what is on demand counts for another
        (Account(8, "g4dn.xlarge", "m7i.large", "p4d.24xlarge"), "g5.4xlarge", False, 20),
        (Account(96, "p4d.24xlarge", "p5.4xlarge", spot=True), "p5.4xlarge", True, 112),  # P5 has one of its own
        (Account(None), "p4d.24xlarge", False, 96),
    ],
    ids=["none", "all-in-use", "on-demand", "mixed", "p5", "unknown"],
)
def test_a_quota_is_named_with_what_to_type(
    account: Account, type: str, spot: bool, value: int, recorded: Recorded
) -> None:
    """The value is what is in use and what is needed, and more than what the account has."""
    refused = refusal("MaxSpotInstanceCountExceeded" if spot else "VcpuLimitExceeded")
    assert isinstance(refused, QuotaReached)
    told, quota = quotas.error(account, offer(type, "eu-west-1", spot=spot), refused), quota_of(type, spot)
    assert quota is not None and told is not None and told.hint == quota.raise_command(value, "eu-west-1")
    recorded.same(told)


def test_quotas_are_looked_up_before_anything_is_asked_for(recorded: Recorded) -> None:
    t4, a10g = offer("g4dn.xlarge", "us-east-1"), offer("g5.4xlarge", "us-east-1")
    quotas.check(Account(8, "g4dn.xlarge"), [t4, a10g])
    quotas.check(Account(None), [t4])
    quotas.check(Account(4), [a10g, t4])  # the second can be had
    with recorded.raises(QuotaReached):
        quotas.check(Account(4, "g4dn.xlarge"), [t4])


@pytest.mark.parametrize(
    ("wanted", "faults"),
    [
        ([], {"quota G on demand": 4}),
        ([("m7i.large", False)], {"quota standard on demand": 2}),
        ([("g4dn.xlarge", True), ("p4d.24xlarge", False)], {"quota G spot": 4, "quota P on demand": 96}),
    ],
)
def test_none_of_what_is_wanted_is_a_fault(wanted: list[tuple[str, bool]], faults: dict[str, int]) -> None:
    found = {check.name: check for check in quotas.checks(Account(0), "us-east-1", wanted)}
    assert {name for name, check in found.items() if check.ok is False} == faults.keys()
    for name, value in faults.items():
        assert f"--desired-value {value} --region us-east-1" in (found[name].fix or "")
    assert all(check.fix and "none may run" in check.detail for check in found.values())
    assert "--desired-value 16 " in (found["quota P5 spot"].fix or "")


def test_what_only_aws_can_read_is_not_printed() -> None:
    blob = "x7Gh" * 600
    said = f"You are not authorized to perform this operation. Encoded authorization failure message: {blob}"
    error = refusal("UnauthorizedOperation", said)
    assert isinstance(error, Refused) and error.encoded == blob
    assert (
        blob[:8] not in f"{error.message} {error.evidence} {error.hint}"
        and "encoded" not in str(error.evidence).lower()
    )


def test_a_wrong_clock_is_told_from_a_wrong_key(recorded: Recorded) -> None:
    for code in ("AuthFailure", "RequestExpired", "SignatureDoesNotMatch"):
        for skew in (900.0, -900.0):
            recorded.same(refusal(code, skew=skew), f"{code}, {skew:g} s")


@pytest.mark.parametrize(("code", "status"), [("RequestLimitExceeded", 503), ("InternalError", 500), ("Strange", 502)])
def test_an_answer_that_is_none_says_nothing_of_a_host(code: str, status: int) -> None:
    error = refusal(code, status=status)
    assert isinstance(error, ProviderUnreachable) and isinstance(error, HostUnreachable)


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.EndpointConnectionError(endpoint_url="https://ec2"),
        botocore.exceptions.ConnectTimeoutError(endpoint_url="https://ec2"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="https://ec2"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="https://ec2"),
        botocore.exceptions.SSLError(endpoint_url="https://ec2", error="x"),
        botocore.exceptions.ProxyConnectionError(proxy_url="http://proxy"),
        botocore.parsers.ResponseParserError("<html>"),
    ],
)
def test_a_link_that_is_down(error: Exception) -> None:
    assert isinstance(translate(error, "ec2", "run_instances", "us-east-1", 0), ProviderUnreachable)


def test_errors_of_the_library_itself(recorded: Recorded) -> None:
    found = botocore.exceptions
    for error in (
        found.NoCredentialsError(),
        found.PartialCredentialsError(provider="env", cred_var="x"),
        found.SSOTokenLoadError(error_msg="x"),
        found.UnauthorizedSSOTokenError(),
        found.TokenRetrievalError(provider="sso", error_msg="x"),
        found.CredentialRetrievalError(provider="p", error_msg="x"),
        found.ParamValidationError(report="x"),
        found.MissingDependencyException(msg="pip install botocore[crt]"),
        EOFError(),
    ):
        told = translate(error, "sts", "get_caller_identity", "us-east-1", 0)
        assert isinstance(told, Refused) and told.hint
        recorded.same(told, type(error).__name__)


def test_what_is_gone(recorded: Recorded) -> None:
    recorded.cases(lambda code: is_gone(refusal(code)))


# --- prices ---

PRICE_FILE = """"FormatVersion","v1.0"
"Disclaimer","This pricing list is for informational purposes only"
"Publication Date","2026-11-20T22:14:44Z"
"Version","20261120221444"
"OfferCode","AmazonEC2"
"SKU","TermType","Unit","PricePerUnit","Currency","Instance Type","Tenancy","Operating System","License Model",\
"CapacityStatus","Pre Installed S/W","Volume API Name"
"A","OnDemand","Hrs","0.5310000000","USD","g4dn.xlarge","Shared","Linux","No License required","Used","NA"
"B","OnDemand","Hrs","0.7100000000","USD","g4dn.xlarge","Shared","Windows","No License required","Used","NA"
"C","OnDemand","Hrs","0.5800000000","USD","g4dn.xlarge","Dedicated","Linux","No License required","Used","NA"
"D","OnDemand","Hrs","0.0000000000","USD","g4dn.xlarge","Shared","Linux","No License required","AllocatedHost","NA"
"E","Reserved","Hrs","0.2000000000","USD","g4dn.xlarge","Shared","Linux","No License required","Used","NA"
"F","OnDemand","Hrs","0.9800000000","USD","g4dn.xlarge","Shared","Linux","No License required","Used","SQL Std"
"G","OnDemand","Hrs","9.0000000000","USD","x9.huge","Shared","Linux","No License required","Used","NA"
"H","OnDemand","Hrs","0.1008","USD","m7i.large","Shared","Linux","No License required","Used","NA"
"I","OnDemand","GB-Mo","0.0952","USD","","","","","","NA","gp3"
"J","OnDemand","IOPS-Mo","0.0060","USD","","","","","","NA","gp3"
"K","OnDemand","GB-Mo","0.1190","USD","","","","","","NA","gp2"
""".replace("\\\n", "")


def test_prices_are_read_from_a_file_of_aws_s_form() -> None:
    found = update_prices.read(PRICE_FILE.splitlines(keepends=True), {"g4dn.xlarge", "m7i.large", "g5.xlarge"})
    assert found == ("2026-11-20", {"g4dn.xlarge": 0.531, "m7i.large": 0.1008}, 0.0952)


def test_a_price_file_of_another_form_changes_nothing() -> None:
    with pytest.raises(ValueError, match="form"):
        update_prices.read(PRICE_FILE.replace("Instance Type", "Kind").splitlines(keepends=True), {"g4dn.xlarge"})


def test_the_table_that_is_written_is_the_one_that_is_read() -> None:
    assert update_prices.text(json.loads(update_prices.FILE.read_text())) == update_prices.FILE.read_text()


# --- an image with a price of its own ---


@pytest.mark.parametrize(
    ("about", "known"),
    [
        ({"PlatformDetails": "Linux/UNIX"}, True),
        ({"PlatformDetails": "Red Hat Enterprise Linux"}, False),
        ({"PlatformDetails": "Linux/UNIX", "ProductCodes": [{"ProductCodeId": "x", "ProductCodeType": "m"}]}, False),
    ],
)
def test_the_price_of_a_machine_is_not_known_where_its_image_costs_too(
    tmp_path: Path, about: dict[str, Any], known: bool
) -> None:
    said = {
        "describe_subnets": {"Subnets": [{"AvailabilityZone": "us-east-1a"}]},
        "describe_instance_type_offerings": {
            "InstanceTypeOfferings": [{"InstanceType": "g4dn.xlarge", "Location": "us-east-1a"}]
        },
        "describe_images": {"Images": [{"ImageId": "ami-1", **about}]},
    }

    class Answers(Calls):
        def __call__(self, service: str, operation: str, region: str, **parameters: Any) -> Any:
            return said[operation]

    config = Config(tmp_path, providers={"aws": Settings(region="us-east-1")})
    aws = AWS(config)
    aws.calls = Answers(AWSFront().of(config))
    machine = MachineType("mine", rental=Rental("aws", ("g4dn.xlarge",), image="ami-1"))
    (found,) = aws.offers(machine, live=True)
    assert (found.price is not None, found.at_most is not None) == (known, known)
    rented = tags.rented_of(instance_of(tags_of(found), time.time()), "us-east-1")
    assert rented is not None and (rented.cost(time.time()) is not None) == known
