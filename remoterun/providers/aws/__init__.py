"""Hosts of Amazon's EC2, in the user's own account. boto3 is imported with the first call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remoterun.config import Config
    from remoterun.providers.base import Provider


def of_config(config: Config) -> Provider:
    """The row of `PROVIDERS`."""
    from remoterun.providers.aws.provider import AWS

    return AWS(config)
