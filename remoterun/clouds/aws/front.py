"""AWS, as far as it is known without asking it, and without its library."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import text_of
from remoterun.clouds.aws import catalogue
from remoterun.clouds.base import Offer, Provider
from remoterun.clouds.fronts import Front
from remoterun.config import ArchivePlace, Config
from remoterun.errors import ConfigError
from remoterun.model import Rental

CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables of which each means that AWS's own library will look for credentials."""
CREDENTIAL_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
LOGINS = "aws_access_key_id|credential_process|role_arn|sso_|login_session|web_identity_token_file"
"""Settings of AWS's files, or their beginnings, of which each is a login."""
MAKERS = ("/sys/devices/virtual/dmi/id/sys_vendor", "/sys/devices/virtual/dmi/id/bios_version")
"""Files of which one says "Amazon" on a machine of AWS's own."""
INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
HOST = re.compile(r"i-[0-9a-f]+")
MOST_TAGS, TAG = 20, re.compile(r"(?!(?i:aws|remoterun):)[\w +\-.:/@]{1,128}=[\w +\-=.:/@]{0,256}")
"""Tags of the user's own, of the 50 that AWS allows; and one of them, as KEY=VALUE."""


@dataclass(frozen=True)
class Settings:
    """The table `[aws]`. None: what AWS's own variables and files say.

    `address`: from which hosts are reached over SSH, such as "203.0.113.7/32", where it is not the one that this
    machine is seen with; `connect`: "endpoint" where they are reached through an EC2 Instance Connect Endpoint instead;
    `subnet` and `security_group`: where hosts shall be, for an account without a default network; `roles`: false where
    hosts shall have no role of their own; `host_role`, `guard_role`: names of roles, `boundary`: the ARN of their
    permissions boundary; `tags`: of all that is made.

    `bucket`, `endpoint`: those of `[archive]`, to which hosts save.
    """

    bucket: str | None = None
    region: str | None = None
    endpoint: str | None = None
    profile: str | None = None
    address: str | None = None
    connect: str | None = None
    subnet: str | None = None
    security_group: str | None = None
    roles: bool = True
    host_role: str = "remoterun-host"
    guard_role: str = "remoterun-guard"
    boundary: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


class AWSFront(Front):
    name, title, settings = "aws", "AWS", Settings
    older = {  # noqa: RUF012 - a front is made once
        "bucket": ("archive", "bucket"),
        "bucket_region": ("archive", "region"),
        "endpoint": ("archive", "endpoint"),
        "max_cost": ("limits", "max_cost"),
        "max_cost_month": ("limits", "max_cost_month"),
    }
    lent = ("region", "profile")
    example = "g4dn.xlarge,g5.xlarge"
    bill = "AWS takes $0.01 for the question"
    how_to_set_up = (
        "to rent machines at AWS, `export AWS_PROFILE=NAME`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    how_to_log_in = (
        "aws configure   # asks for the keys of an IAM user, and keeps them in ~/.aws\n"
        "aws configure sso   # sets up a login through the browser, which `aws sso login` renews\n"
        "or set AWS_PROFILE, or the two keys: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )

    def provider(self, config: Config) -> Provider:
        from remoterun.clouds.aws.provider import AWS

        return AWS(config)

    def of(self, config: Config) -> Settings:
        own = config.providers.get(self.name) or Settings()
        return replace(own, bucket=config.archive.bucket, endpoint=config.archive.endpoint)

    def check(self, where: str, table: Mapping[str, Any]) -> None:
        if table.get("connect", "endpoint") != "endpoint":
            raise ConfigError(f"{where}.connect: unknown way `{table['connect']}`", hint='connect = "endpoint"')
        for number, (key, value) in enumerate(table.get("tags", {}).items()):
            if number == MOST_TAGS or not (isinstance(value, str) and TAG.fullmatch(f"{key}={value}")):
                most = f"up to {MOST_TAGS}, none that begins with `aws:` or `remoterun:`"
                hint = f'tags = {{CostCenter = "1234"}}; {most}'
                raise ConfigError(f"{where}.tags: `{key}` can't be a tag with the value {value!r}", hint=hint)

    def is_set_up(self, config: Config, environ: Mapping[str, str] | None = None) -> bool:
        """Whether hosts are, or were, rented there, or AWS's library would find something that looks like credentials.
        Looks at names only; an instance's own role is used only where config.toml says something."""
        from remoterun.clouds.folder import rentals

        variables = os.environ if environ is None else environ
        if self.name in config.providers or any(each.provider == self.name for each in rentals(config)):
            return True
        if config.archive.endpoint is not None:  # its keys are of another store, but for those besides its own profile
            return config.archive.profile is not None and _has_own_login(variables)
        if str(config.archive.bucket).startswith("file:"):
            return _has_own_login(variables)
        if config.archive != ArchivePlace() or any(variables.get(name) for name in CREDENTIALS):
            return True
        files = (variables.get(name) or default for name, default in CREDENTIAL_FILES.items())
        return any(Path(file).expanduser().is_file() for file in files)

    def can_log_in(self, config: Config, environ: Mapping[str, str] | None = None) -> bool:
        """Whether AWS's library has something to log in with: by names of variables and of settings alone. On one of
        AWS's own machines that is its role."""
        variables = os.environ if environ is None else environ
        if _has_own_login(variables) or self.of(config).profile or config.archive.profile:
            return True
        if variables.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return False
        return any("amazon" in text_of(file).lower() for file in MAKERS)

    def is_type(self, word: str) -> bool:
        return INSTANCE_TYPE.fullmatch(word) is not None

    def is_host(self, word: str) -> bool:
        return HOST.fullmatch(word) is not None

    def meant(self, word: str) -> Collection[str]:
        return () if word in catalogue.table().types else catalogue.nearest(word)

    def names(self) -> Mapping[str, Rental]:
        return {word: found for word in (*catalogue.NAMES, *catalogue.GONE) if (found := catalogue.rental(word))}

    def cheapest_first(self) -> Collection[str]:
        prices = {name: catalogue.offer(each.types[0], "us-east-1").price for name, each in self.names().items()}
        return sorted(prices, key=lambda name: prices[name] or 1e9)

    def stand_ins(self, names: Collection[str]) -> Mapping[str, str]:
        by_type = {type: name for name, type in reversed(catalogue.NAMES.items())}
        gone = {name: type for name, (type, _) in catalogue.GONE.items() if name in names}
        return {name: by_type.get(type, type) for name, type in gone.items()}

    def instead(self, asked_for: str, offer: Offer) -> str:
        return catalogue.instead(asked_for, offer)

    def tags(self, config: Config) -> dict[str, str]:
        return self.of(config).tags


def _has_own_login(variables: Mapping[str, str]) -> bool:
    """Whether a variable, or the default section of a file of AWS's, has a login."""
    if any(variables.get(name) for name in CREDENTIALS):
        return True
    for name, default in CREDENTIAL_FILES.items():
        text = text_of(os.path.expanduser(variables.get(name) or default))
        parts = re.split(r"^\s*\[\s*(.*?)\s*\]", text, flags=re.MULTILINE)
        sections = dict(zip(parts[1::2], parts[2::2], strict=False))
        own = sections.get("default", "") + sections.get("profile default", "")
        if re.search(rf"^\s*({LOGINS})", own, re.MULTILINE):
            return True
    return False
