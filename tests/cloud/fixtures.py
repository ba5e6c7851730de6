"""What a test may ask for: `cloud`, made on first use. moto is imported no earlier, as it takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.lab import Lab

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


def why_missing() -> str | None:
    """Why this machine can't have a cloud; None if it can."""
    try:
        from tests.cloud.cloud import Cloud
    except ImportError as error:
        return f"{error.name} is not installed"
    return Cloud.missing()


@pytest.fixture(scope="session")
def cloud_of_session(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """The servers behind `cloud`: 2 s, and 4 s until the bucket takes objects, in the background."""
    from tests.conftest import require

    require(Lab.missing())
    require(why_missing())
    from tests.cloud.cloud import Cloud
    from tests.seaweed import share_models

    share_models()
    with Cloud(request.getfixturevalue("lab")) as cloud:
        yield cloud


@pytest.fixture
def cloud(cloud_of_session: Cloud) -> Iterator[Cloud]:
    """A cloud for this test alone: no machine, no bucket, no fault; whatever the test leaves ends with it."""
    yield cloud_of_session
    wrong = sorted({*cloud_of_session.unpublished})
    cloud_of_session.reset()
    cloud_of_session.s3.wipe()
    assert not wrong, "against botocore's models of AWS:\n" + "\n".join(wrong)
