"""A second cloud is one folder: AWS is named in its folder, in the room of S3, and in one module of the agent."""

from __future__ import annotations

import re
from pathlib import Path

import remoterun

ROOT = Path(remoterun.__file__).parent
OWN = re.compile(r"clouds/aws/|archive/s3\w*\.py|agent/store/host_role\.py")
TABLE = "clouds/__init__.py"
"""The names of providers, each with its front."""
WORDS = re.compile(r"(?<![a-z])(?:aws|ec2|amazon|boto3?|botocore|imds)(?![a-z])", re.IGNORECASE)


def test_nobody_else_names_a_provider() -> None:
    found = {
        f"{name}:{number}: {line.strip()}"
        for path in ROOT.rglob("*.py")
        if not OWN.match(name := path.relative_to(ROOT).as_posix()) and name != TABLE
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WORDS.search(line)
    }
    assert not found
