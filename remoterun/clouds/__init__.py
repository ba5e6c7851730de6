"""Where hosts come from. Each provider is a row of `PROVIDERS`; its folder is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remoterun.clouds.base import Provider
    from remoterun.config import Config

PROVIDERS = {
    "aws": "remoterun.clouds.aws.provider.AWS",
}
"""Name of a provider (`Rental.provider`) → a function of the configuration that makes the `Provider`."""


def provider_named(name: str, config: Config) -> Provider:
    """Makes no connection. Raises `ConfigError` where the configuration can't be right for it."""
    module, _, function = PROVIDERS[name].rpartition(".")
    provider: Provider = getattr(importlib.import_module(module), function)(config)
    return provider
