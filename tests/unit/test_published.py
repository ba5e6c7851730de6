"""A stand-in that is asked, or answers, what its service has not published fails the test."""

from __future__ import annotations

import pytest

from tests.published import Published

POD = {"name": "a", "image": "b", "gpu": {"id": "4090"}, "disk": 1}
USER = {"id": 1, "email": "me@vast"}


@pytest.mark.parametrize(
    ("api", "method", "target", "body", "status", "answer", "wrong"),
    (
        ("runpod-v2", "POST", "/v2/pods", {**POD, "imageName": "b"}, 422, None, "imageName"),
        ("runpod-v2", "POST", "/v2/pods", {**POD, "gpu": {"id": "4090", "ids": []}}, 422, None, "ids"),
        ("runpod-v2", "POST", "/v2/pods", {**POD, "disk": "1"}, 422, None, "integer"),
        ("runpod-v2", "GET", "/v2/pods?includeMachine=true", None, 200, {"pods": []}, "includeMachine"),
        ("runpod-v2", "GET", "/v2/catalog/gpus?count=x", None, 200, {"gpus": []}, "count"),
        ("runpod-v2", "GET", "/v1/pods", None, 200, [], "no such endpoint"),
        ("runpod-v2", "GET", "/v2/pods", None, 200, [], "object"),
        ("runpod-v2", "DELETE", "/v2/pods/1", None, 404, {"title": "Not Found", "status": "404", "detail": ""}, "404"),
        ("runpod-v2", "DELETE", "/v2/pods/1", {}, 204, None, "no body"),
        ("runpod-v2", "DELETE", "/v2/pods/1", None, 204, {}, "no body"),
        ("vast", "GET", "/api/v0/users/current/", None, 200, {**USER, "name": "me"}, "name"),
        ("vast", "GET", "/api/v0/users/current/", None, 202, USER, "202"),
        (
            "hetzner",
            "POST",
            "/v1/servers",
            {"name": "a", "server_type": "b", "image": "c", "spot": True},
            422,
            None,
            "spot",
        ),
        ("hetzner", "DELETE", "/v1/servers/1", None, 404, {"error": {"code": "not_found"}}, "message"),
    ),
)
def test_what_is_not_published_fails(api, method, target, body, status, answer, wrong) -> None:
    published = Published(api)
    refused, _ = published.exchange(method, target, body, lambda: (status, answer))
    assert refused == 400
    with pytest.raises(AssertionError, match=wrong), published:
        pass


def test_an_answer_is_filled_with_what_the_description_requires() -> None:
    for api, target, fields in (
        ("runpod-v2", "/v2/pods", {"pods": [{"id": "1", "ssh": {"direct": None}}]}),
        ("hetzner", "/v1/servers", {"servers": [{"id": 1}], "meta": {"pagination": {"next_page": None}}}),
    ):
        with Published(api) as published:
            answer = published.filled("GET", target, 200, fields)
            assert published.exchange("GET", target, None, lambda answer=answer: (200, answer)) == (200, answer)
        answer = published.filled("GET", target, 200, {**fields, "wrong": 1})
        assert "wrong" in published.check_answer("GET", target, 200, answer), "a field too many stays one"


def test_what_is_published_goes_through() -> None:
    with Published("runpod-v2") as api:
        assert api.exchange("DELETE", "/v2/pods/1", None, lambda: (204, None)) == (204, None)
        target = "/v2/catalog/gpus?include=AVAILABILITY&product=POD&count=1&cudaVersions=12.8,13.0"
        assert api.exchange("GET", target, None, lambda: (200, {"gpus": []})) == (200, {"gpus": []})
    with Published("vast") as api:
        assert api.exchange("GET", "/api/v0/users/current/", None, lambda: (200, USER)) == (200, USER)
        assert api.exchange("PUT", "/api/v0/asks/7/", {"image": "a"}, lambda: (503, "no")) == (503, "no")


WHO = "<GetCallerIdentityResponse><GetCallerIdentityResult>{}</GetCallerIdentityResult></GetCallerIdentityResponse>"


@pytest.mark.parametrize(
    ("service", "action", "answer", "found"),
    (
        ("sts", "GetCallerIdentity", WHO.format("<Account>1</Account>"), []),
        ("sts", "GetCallerIdentity", WHO.format("<Owner>1</Owner>"), ["Owner"]),
        ("sts", "GetCallerIdentity", "<GetCallerIdentityResponse/>", ["no GetCallerIdentityResult"]),
        ("scheduler", "ListSchedules", '{"Schedules": [{"State": "ENABLED", "EndDate": null}]}', ["EndDate"]),
        ("scheduler", "ListSchedules", '{"Schedules": [{"State": "ON"}]}', ["'ON' is none of its values"]),
    ),
)
def test_an_answer_of_aws_is_held_against_its_model(service, action, answer, found) -> None:
    pytest.importorskip("botocore")
    from tests.cloud.models import wrong

    said = wrong(service, action, answer.encode())
    assert len(said) == len(found) and all(text in each for text, each in zip(found, said, strict=True)), said
