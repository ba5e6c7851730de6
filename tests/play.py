"""A box and a cloud on this machine, to play with by hand: make play

It prints what another terminal needs: a home of its own, an SSH host `box` with Docker, and an account of an AWS whose
hosts are of the lab. All of it is gone when this ends, by ^C or at the end of its input.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path

from remoterun.model import MachineType
from tests.cloud import fixtures
from tests.lab import BASE_IMAGE, Lab

IMAGE = MachineType("box").base_image
"""What environments are built of. No registry is asked for it: it is the lab's own."""
GUIDE = """\
# In another terminal:

    . {file}

# Then, for example:

    remoterun run -t box "python -V"
    ssh box docker image ls
    remoterun run -t t4 -y "echo rented"     # it costs nothing; the prices that are shown are those of AWS
    remoterun machines rented

# ^C ends the box and the cloud, and all that they hold."""


def main() -> None:
    missing = Lab.missing() or fixtures.why_missing()
    if missing is not None:
        sys.exit(f"make play: {missing}")
    from tests.cloud.cloud import Cloud

    print("# a box and a cloud are made; that takes some 10 s, and a minute for the first time", flush=True)
    with contextlib.suppress(KeyboardInterrupt), Lab() as lab, Cloud(lab) as cloud:
        cloud.docker_tags = {IMAGE: BASE_IMAGE}
        lab.host("box").up().exec(["docker", "tag", BASE_IMAGE, IMAGE])
        file = lab.folder / "play.sh"
        file.write_text(settings(lab.folder, lab.ssh_config(), cloud.environment()))
        print(file.read_text() + GUIDE.format(file=file), flush=True)
        sys.stdin.read()


def settings(folder: Path, ssh_config: Path, account: dict[str, str]) -> str:
    """Lines for a shell."""
    here = {"REMOTERUN_HOME": str(folder / "home"), "REMOTERUN_SSH_CONFIG": str(ssh_config)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in {**here, **account}.items()]
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    lines.append(f"alias ssh={shlex.quote(f'ssh -F {shlex.quote(str(ssh_config))}')}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
