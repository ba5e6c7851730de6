"""A program in the place of AWS's command line: it makes the tunnel through a cloud's Instance Connect Endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

PROGRAM = """\
import os, selectors, socket, sys, urllib.request
words = sys.argv[1:]
if words == ["--version"]:
    sys.exit(print("aws-cli/{version} Python/3.11 Linux/6"))
known = dict(zip(words[2::2], words[3::2]))
assert words[:2] == ["ec2-instance-connect", "open-tunnel"] and known["--region"] == "us-east-1", words
at, source = urllib.request.urlopen("{url}/tunnel/" + known["--instance-id"], timeout=10).read().decode().split(" ")
link = socket.create_connection((at, int(known["--remote-port"])), 5, (source, 0))
link.settimeout(None)
both = selectors.DefaultSelector()
both.register(0, selectors.EVENT_READ)
both.register(link, selectors.EVENT_READ)
while True:
    for key, _ in both.select():
        data = os.read(0, 65536) if key.fd == 0 else link.recv(65536)
        if not data:
            sys.exit()
        link.sendall(data) if key.fd == 0 else os.write(1, data)
"""


def install(folder: Path, cloud: Cloud, version: str = "2.15.30") -> Path:
    """Puts `aws` into a folder, for PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / "aws"
    text = PROGRAM.replace("{version}", version).replace("{url}", cloud.url)
    program.write_text(f"#!{sys.executable} -S\n{text}")
    program.chmod(0o755)
    return folder
