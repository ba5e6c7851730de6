"""The door of the API: it checks logins, clocks and permissions as AWS does, counts calls, and lets moto answer."""

from __future__ import annotations

import hashlib
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tests.cloud.models import wrong
from tests.cloud.policies import allowed

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


@dataclass
class Call:
    """One call of the API. `at` is `time.monotonic()`, `error` the code of its error or ""."""

    at: float
    service: str
    action: str
    region: str
    key: str
    parameters: dict[str, str] = field(repr=False)
    status: int = 0
    error: str = ""


class Refusal(Exception):
    """An answer in place of moto's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message = status, code, message


class Gate:
    """A WSGI application in front of moto's."""

    def __init__(self, app: App, cloud: Cloud) -> None:
        self._app = app
        self._cloud = cloud

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/tunnel/"):  # what AWS knows of an instance that a tunnel leads to
            machine = self._cloud.machines[environ["PATH_INFO"].rpartition("/")[2]]
            start("200 OK", [("Content-Type", "text/plain")])
            return [f"{machine.host.address if machine.host else ''} {self._cloud.endpoints[0].address}".encode()]
        if environ["PATH_INFO"].startswith("/moto-api/"):
            return self._app(environ, start)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        call = _call(environ, body)
        self._cloud.calls.append(call)
        try:
            self._check(environ, call)
            self._cloud.at_call(call)
            if call.action not in OWN:
                return self._pass_on(environ, start, call)
            answer = OWN[call.action](self._cloud, call).encode()
            self._cloud.unpublished += wrong(call.service, call.action, answer)
            call.status = 200
            kind = "application/x-amz-json-1.1" if answer.startswith(b"{") else "text/xml"
            start("200 OK", [("Content-Type", kind)])
            return [answer]
        except Refusal as refusal:
            return _refuse(refusal, call, start)

    def _check(self, environ: dict[str, Any], call: Call) -> None:
        cloud = self._cloud
        broken = cloud.broken_calls(call.action, call.region)
        if broken is not None:
            raise broken
        credentials = cloud.credentials.get(call.key)
        if credentials is None:
            raise _unknown_key(call)
        token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
        if credentials.session and token != credentials.session:
            raise _unknown_key(call)
        if credentials.expires is not None and time.monotonic() > credentials.expires:
            raise _expired_login(call)
        name = f"{call.service}:{call.action}"
        hands_over = call.action == "CreateSchedule" or "IamInstanceProfile.Name" in call.parameters
        if name in cloud.denied or credentials.user_id:
            raise _not_allowed(call, cloud, name)
        if hands_over and "iam:PassRole" in cloud.denied:
            raise _not_allowed(call, cloud, "iam:PassRole")
        lacking = (
            next((need for need in cloud.needs_of(call) if not cloud.allows(need)), None) if cloud.policy else None
        )
        if lacking:
            raise _not_allowed(call, cloud, lacking.action)
        if call.action.startswith("Describe") and call.parameters.get("DryRun") == "true":  # moto would answer
            raise Refusal(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")

    def _pass_on(self, environ: dict[str, Any], start: Start, call: Call) -> Iterable[bytes]:
        def note(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            call.status = int(status.split()[0])
            return start(status, headers, *rest)

        try:
            chunks = self._app(environ, note)
        except BaseException:  # the server tells the client of an error of its own
            call.status = 500
            raise
        answer = b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
        if call.status >= 400:
            found = re.search(rb'<Code>([^<]+)</Code>|"__type":\s*"([^"]+)"', answer)
            call.error = (found[1] or found[2]).decode() if found else str(call.status)
            return [answer]
        self._cloud.unpublished += wrong(call.service, call.action, answer)
        if call.action == "AssumeRole":
            self._cloud.assumed(
                *(_element(answer, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
            )
        return [answer]


def _element(answer: bytes, name: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>".encode(), answer)
    assert found is not None, name
    return found[1].decode()


def _call(environ: dict[str, Any], body: bytes) -> Call:
    scope = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    parameters: dict[str, str] = {}
    if "x-www-form-urlencoded" in environ.get("CONTENT_TYPE", ""):
        parameters = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
    elif target:
        parameters = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in json.loads(body or b"{}").items()
        }
    key, region, service = (scope[1], scope[2], scope[3]) if scope else ("", "", "")
    service = {"monitoring": "cloudwatch"}.get(service, service)  # as policies have it
    action = target.rpartition(".")[2] or parameters.get("Action", environ["PATH_INFO"])
    if service == "scheduler":
        kind, _, rest = action.strip("/").partition("/")
        verbs = {"POST": "Create", "PUT": "Update", "DELETE": "Delete", "GET": "Get" if rest else "List"}
        role = json.loads(body or b"{}").get("Target", {}).get("RoleArn")
        parameters = {"Name": urllib.parse.unquote(rest.partition("?")[0]), **({"RoleArn": role} if role else {})}
        action = f"{verbs[environ['REQUEST_METHOD']]}{kind.title().replace('-', '')[: None if not rest else -1]}"
    return Call(time.monotonic(), service, action, region, key, parameters)


# --- what moto doesn't know ---


def _endpoints(cloud: Cloud, call: Call) -> str:
    items = "".join(
        f"<item><instanceConnectEndpointId>{each.id}</instanceConnectEndpointId><state>create-complete</state>"
        f"<vpcId>{each.vpc}</vpcId><subnetId>{each.subnet}</subnetId><preserveClientIp>false</preserveClientIp>"
        f"<securityGroupIdSet><item>{each.group}</item></securityGroupIdSet></item>"
        for each in cloud.endpoints
    )
    name, space = "DescribeInstanceConnectEndpointsResponse", "http://ec2.amazonaws.com/doc/2016-11-15/"
    listed = f"<instanceConnectEndpointSet>{items}</instanceConnectEndpointSet>"
    return f'<{name} xmlns="{space}">{listed}</{name}>'


def _simulation(cloud: Cloud, call: Call) -> str:
    """The answers of the user's policy to actions, with the resources and the context that are given."""

    def given(key: str) -> list[str]:
        found = {name: value for name, value in call.parameters.items() if re.fullmatch(rf"{key}\.member\.\d+", name)}
        return [found[name] for name in sorted(found, key=lambda each: int(each.rpartition(".")[2]))]

    context: dict[str, str] = {}
    for name, value in call.parameters.items():
        if found := re.fullmatch(r"(ContextEntries\.member\.\d+)\.ContextKeyName", name):
            context[value] = call.parameters.get(f"{found[1]}.ContextKeyValues.member.1", "")
    items = ""
    for action in given("ActionNames"):
        for resource in given("ResourceArns") or ["*"]:
            is_allowed = action not in cloud.denied and (
                cloud.policy is None or allowed([cloud.policy], action, resource, context)
            )
            decision = "allowed" if is_allowed else "implicitDeny"
            items += f"<member><EvalActionName>{action}</EvalActionName><EvalDecision>{decision}</EvalDecision>"
            items += f"<EvalResourceName>{resource}</EvalResourceName></member>"
    name, space = "SimulatePrincipalPolicy", "https://iam.amazonaws.com/doc/2010-05-08/"
    results = f"<IsTruncated>false</IsTruncated><EvaluationResults>{items}</EvaluationResults>"
    return f'<{name}Response xmlns="{space}"><{name}Result>{results}</{name}Result></{name}Response>'


def _decoded(cloud: Cloud, call: Call) -> str:
    told = cloud.encoded[call.parameters["EncodedMessage"]].replace("&", "&amp;").replace("<", "&lt;")
    name, space = "DecodeAuthorizationMessage", "https://sts.amazonaws.com/doc/2011-06-15/"
    inner = f"<{name}Result><DecodedMessage>{told}</DecodedMessage></{name}Result>"
    return f'<{name}Response xmlns="{space}">{inner}</{name}Response>'


def _plan(cloud: Cloud, call: Call) -> str:
    return json.dumps({"accountId": cloud.account, "accountPlanType": cloud.plan, "accountPlanStatus": "ACTIVE"})


def _products(cloud: Cloud, call: Call) -> str:
    """AWS's Price List: each product is JSON in a text of its own."""
    asked = {each["Field"]: each["Value"] for each in json.loads(call.parameters["Filters"])}
    usd = cloud.prices.get((asked["regionCode"], asked["instanceType"]))
    found = []
    for sku, price in (("RUNS", usd), ("RESERVED", 0.0)) if usd is not None else ():  # what is reserved costs elsewhere
        part: dict[str, Any] = {
            "unit": "Hrs",
            "beginRange": "0",
            "endRange": "Inf",
            "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7",
        }
        part |= {"description": f"${price} per On Demand Linux {asked['instanceType']} Instance Hour", "appliesTo": []}
        part |= {"pricePerUnit": {"USD": f"{price:.10f}"}}
        term = {"priceDimensions": {part["rateCode"]: part}, "sku": sku, "offerTermCode": "JRTCKXETXF"}
        term |= {"effectiveDate": "2026-11-01T00:00:00Z", "termAttributes": {}}
        terms = {"OnDemand": {f"{sku}.JRTCKXETXF": term}, "Reserved": {}}
        product = {"productFamily": "Compute Instance", "attributes": asked, "sku": sku}
        found.append({"product": product, "serviceCode": "AmazonEC2", "terms": terms, "version": "20261101000000"})
    return json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps(each) for each in found]})


OWN: dict[str, Callable[[Cloud, Call], str]] = {
    "DecodeAuthorizationMessage": _decoded,
    "DescribeInstanceConnectEndpoints": _endpoints,
    "GetAccountPlanState": _plan,
    "GetProducts": _products,
    "SimulatePrincipalPolicy": _simulation,
}


# --- refusals, in the words of AWS ---


def _unknown_key(call: Call) -> Refusal:
    if call.service == "ec2":
        return Refusal(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
    code = "UnrecognizedClientException" if _is_json(call) else "InvalidClientTokenId"
    return Refusal(400 if _is_json(call) else 403, code, "The security token included in the request is invalid.")


def _expired_login(call: Call) -> Refusal:
    if call.service == "ec2":
        return Refusal(400, "RequestExpired", "Request has expired.")
    code = "ExpiredTokenException" if _is_json(call) else "ExpiredToken"
    return Refusal(400 if _is_json(call) else 403, code, "The security token included in the request is expired")


def _not_allowed(call: Call, cloud: Cloud, action: str) -> Refusal:
    who = cloud.arn
    because = f"because no identity-based policy allows the {action} action"
    if call.service == "ec2":
        resource = f"arn:aws:ec2:{call.region}:{cloud.account}:instance/*"
        about = "" if call.action.startswith("Describe") else f" on resource: {resource}"
        secret = hashlib.sha256(action.encode()).hexdigest() * 40
        asked = {"action": action, "resource": resource, "principal": {"arn": who}}
        cloud.encoded[secret] = json.dumps({"allowed": False, "explicitDeny": False, "context": asked})
        encoded = "" if call.action.startswith("Describe") else f". Encoded authorization failure message: {secret}"
        message = (
            "You are not authorized to perform this operation. "
            f"User: {who} is not authorized to perform: {action}{about} {because}{encoded}"
        )
        return Refusal(403, "UnauthorizedOperation", message)
    code = "AccessDeniedException" if _is_json(call) else "AccessDenied"
    return Refusal(
        400 if _is_json(call) else 403, code, f"User: {who} is not authorized to perform: {action} {because}"
    )


def _is_json(call: Call) -> bool:
    return call.service in ("ssm", "servicequotas", "scheduler", "cloudwatch", "pricing")


def _refuse(refusal: Refusal, call: Call, start: Start) -> Iterable[bytes]:
    call.status, call.error = refusal.status, refusal.code
    if _is_json(call):
        body = json.dumps({"__type": refusal.code, "message": refusal.message})
        kind = "application/x-amz-json-1.1"
    else:
        code, message = refusal.code, refusal.message.replace("&", "&amp;").replace("<", "&lt;")
        request = "00000000-0000-4000-8000-000000000000"
        if call.service == "ec2":
            body = (
                f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
                f"<RequestID>{request}</RequestID></Response>"
            )
        else:
            body = (
                f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
                f"<RequestId>{request}</RequestId></ErrorResponse>"
            )
        kind = "text/xml"
    data = body.encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(data))), ("x-amzn-ErrorType", refusal.code)]
    start(f"{refusal.status} refused", headers)
    return [data]
