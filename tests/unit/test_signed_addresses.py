"""Which server an address names that is signed for a host."""

from __future__ import annotations

import pytest

from remoterun.archive.objects import BucketPlace
from tests.seaweed import asked, credentials


@pytest.mark.parametrize(
    ("place", "server"),
    [
        (BucketPlace("mine", "eu-west-1"), "https://mine.s3.eu-west-1.amazonaws.com/"),
        (BucketPlace("mine", "us-east-1"), "https://mine.s3.amazonaws.com/"),
        (BucketPlace("mine", "us-east-1", "http://127.0.0.1:9"), "http://127.0.0.1:9/mine"),
    ],
)
def test_it_is_the_one_of_the_region(place: BucketPlace, server: str) -> None:
    """One that sends whoever asks elsewhere is of no use: a host follows no redirect."""
    with credentials(), asked(place) as s3:
        assert s3.presigned_post("runs/a/", 60, 100)[0] == server
        assert s3.presigned_get("a", 60).startswith(server.rstrip("/") + "/a?")
