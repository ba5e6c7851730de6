"""Which bucket is meant, and how it is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass

from remoterun.errors import ConfigError

SCHEME = "s3://"
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class BucketPlace:
    """`endpoint` is the address of another store than Amazon's, `profile` a section of the user's AWS configuration;
    None: what that configuration says, or the variables `AWS_…`."""

    name: str
    region: str | None = None
    endpoint: str | None = None
    profile: str | None = None

    @classmethod
    def of(
        cls, address: str, region: str | None = None, endpoint: str | None = None, profile: str | None = None
    ) -> BucketPlace:
        """The place of "s3://NAME". Raises `ConfigError`."""
        name = address.removeprefix(SCHEME)
        if address == name or not NAME.fullmatch(name):
            raise ConfigError(f"`{address[:80]}` is not the address of a bucket", hint="s3://NAME")
        return cls(name, region, endpoint, profile)

    @property
    def address(self) -> str:
        return SCHEME + self.name
