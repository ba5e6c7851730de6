"""Hugging Face, as far as it is known without asking it, and without its library."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from remoterun.agent.shared.files import text_of
from remoterun.clouds.base import Provider
from remoterun.clouds.fronts import Front
from remoterun.config import Config
from remoterun.model import Rental

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")
"""Variables of which each is a login."""
INSTALL = (
    "pipx inject --include-apps remoterun 'huggingface_hub>=2.4,<3'   # its library, and its command `hf`\n"
    "pip install 'huggingface_hub>=2.4,<3'   # the same, where remoterun is in a virtual environment"
)
LOGIN = (
    "hf auth login --force   # with a token that may start and manage Jobs: https://huggingface.co/settings/tokens\n"
    "export HF_TOKEN=hf_…   # or in this shell alone; where it is set, it wins"
)
TYPE = re.compile(r"[a-z0-9][a-z0-9-]*")
HOST = re.compile(r"hf/[0-9A-Za-z]+")


@dataclass(frozen=True)
class Settings:
    """The table `[hf]`. `namespace`: who pays, where that is an organization; None: whoever is logged in. `buckets`:
    where its buckets speak S3."""

    namespace: str | None = None
    buckets: str = "https://s3.hf.co"


class HuggingFaceFront(Front):
    name, title, settings, unit = "hf", "Hugging Face", Settings, 60.0
    example = "t4-small,l4x1"
    hosts_are_containers, lacks = True, ("region", "disk", "spot")
    how_to_set_up = "remoterun machines add hf-t4 --provider hf --types t4-small   rents at Hugging Face"

    @property
    def how_to_log_in(self) -> str:  # type: ignore[override]
        return LOGIN if importlib.util.find_spec("huggingface_hub") else f"{INSTALL}\n{LOGIN}"

    @property
    def unguarded(self) -> str:
        return "it ends by its own clock"

    def provider(self, config: Config) -> Provider:
        from remoterun.clouds.hf.provider import HuggingFace

        return HuggingFace(config)

    def is_set_up(self, config: Config, environ: Mapping[str, str] | None = None) -> bool:
        """Whether hosts are, or were, rented there: many who have a token there have it for models alone."""
        from remoterun.clouds.folder import rentals

        return self.name in config.providers or any(each.provider == self.name for each in rentals(config))

    def can_log_in(self, config: Config, environ: Mapping[str, str] | None = None) -> bool:
        """Whether its library will find a token. Looks where that does."""
        variables = os.environ if environ is None else environ
        cache = variables.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        home = variables.get("HF_HOME") or f"{cache}/huggingface"
        file = os.path.expandvars(os.path.expanduser(variables.get("HF_TOKEN_PATH") or f"{home}/token"))
        return any(variables.get(name) for name in TOKENS) or bool(text_of(file).strip())

    def is_type(self, word: str) -> bool:
        return TYPE.fullmatch(word) is not None

    def is_host(self, word: str) -> bool:
        return HOST.fullmatch(word) is not None

    def names(self) -> Mapping[str, Rental]:
        from remoterun.clouds.hf.hardware import table

        return {f"{self.name}-{type}": Rental(self.name, (type,)) for type in table()}

    def meant(self, word: str) -> Collection[str]:
        import difflib

        from remoterun.clouds.hf.hardware import table

        known = table()
        return () if word in known else difflib.get_close_matches(word, known, 2, 0.5)
