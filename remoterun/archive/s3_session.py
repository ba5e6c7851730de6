"""The one session of AWS's library that a process has, so that it asks for an MFA code, or runs a `credential_process`,
once, whoever needs the login: EC2, or S3. An assumed role is cached where AWS's own command line caches it."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

CACHE = "~/.aws/cli/cache"
FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
"""What a login is made of, beside the variables; by the variable that names another."""
_lock = threading.RLock()
_open: dict[str | None, tuple[Any, Any]] = {}
"""A profile → what its login is made of, and its session."""


def session(profile: str | None, region: str | None = None) -> Any:
    """The session of a profile; None: what `AWS_…` says. `region` is asked for roles where no file names one. A login
    that is changed meanwhile gives another session. Raises what boto3 raises. Any thread may call it."""
    import boto3
    import botocore.session
    from botocore.credentials import create_credential_resolver
    from botocore.utils import JSONFileCache

    with _lock:
        made_of = _made_of()
        if profile not in _open or _open[profile][0] != made_of:
            library = botocore.session.Session(profile=profile)
            folder = Path(CACHE).expanduser()
            with contextlib.suppress(OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            cache = JSONFileCache(str(folder)) if os.access(folder, os.W_OK) else None
            asked = library.get_config_variable("region") or region or "us-east-1"
            library.register_component("credential_provider", create_credential_resolver(library, cache, asked))
            _open[profile] = made_of, boto3.Session(botocore_session=library)
        return _open[profile][1]


def client(service: str, profile: str | None, region: str | None, **settings: Any) -> Any:
    """A client of that session. Raises what boto3 raises."""
    with _lock:  # the library's sessions are not for several threads at once
        return session(profile, region).client(service, region_name=region, **settings)


def _made_of() -> Any:
    """Differs once the login does: the variables, and the versions of the files."""
    files = [Path(os.environ.get(variable, usual)).expanduser() for variable, usual in FILES.items()]
    versions = [file.stat().st_mtime_ns for file in files if file.exists()]
    return versions, {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "HOME"}
