"""Commands that are forked from one process which has imported remoterun: that is most of what most of them cost.

They have their own folder, environment and output, and end as any process of Python does. Commands in a terminal, and
those that are sent signals, start as a user starts them.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

REMOTERUN = str(Path(sys.executable).parent / "remoterun")
LANG = "C.UTF-8"

_SERVER = """
import atexit, gc, json, os, sys, threading
import boto3, typer, typer.main
import remoterun.hosts.local, remoterun.hosts.ssh.connection, remoterun.hosts.ssh.host, remoterun.source
from remoterun.cli.commands import application
from remoterun.cli.main import main
import remoterun.client.data.files, remoterun.client.upkeep.machines, remoterun.client.runs.runs
import remoterun.client.upkeep.rented_hosts
import remoterun.client.data.uploads, remoterun.client.upkeep.upkeep, remoterun.client.webhooks
from remoterun.hosts.bundle import agent_bundle
from remoterun.transfer import *

def imports_more(number: int = 0, names: list[str] = []) -> None:
    "What typer imports when it has values to check."

app = typer.Typer()
app.command()(imports_more)
typer.main.get_command(app).main(["--number", "1", "--names", "a"], standalone_mode=False)
application()
agent_bundle().digest, agent_bundle().data
gc.collect()
gc.freeze()
for line in sys.stdin.buffer:
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    wanted = json.loads(line)
    for number, path in enumerate((os.devnull, wanted["out"], wanted["err"])):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (open(number, "w" if number else "r", closefd=False) for number in range(3))
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = wanted["words"]
    status = main()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without taking apart what was imported
"""


def run(words: Sequence[str], cwd: Path, env: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """`remoterun WORDS` without a terminal and with nothing on its standard input."""
    words = [REMOTERUN, *words]
    # git is looked for when GitPython is imported, and what else is named here is read when Python starts
    git = shutil.which("git", path=env["PATH"]) == shutil.which("git")
    python = not any(name.startswith(("PYTHON", "LC_")) for name in env) and env.get("LANG", LANG) == LANG
    if git and python and threading.current_thread() is threading.main_thread():
        return _forked(words, cwd, env, seconds)
    return subprocess.run(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        text=True,
        errors="surrogateescape",
    )


def _forked(words: list[str], cwd: Path, env: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """One at a time."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        wanted = {"words": words, "cwd": str(cwd), "env": env, "out": out.name, "err": err.name}
        server.stdin.write(json.dumps(wanted).encode() + b"\n")
        server.stdin.flush()
        try:
            if not select.select([server.stdout], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(words, seconds, out.read(), err.read())
            status = int(server.stdout.readline())
        except BaseException:  # the command may be at work
            os.killpg(server.pid, signal.SIGKILL)
            server.communicate()
            _server.cache_clear()
            raise
        said = (file.read().decode(errors="surrogateescape") for file in (out, err))
        return subprocess.CompletedProcess(words, status, *said)


@functools.cache
def _server() -> subprocess.Popen[bytes]:
    """It ends with its input, which is ours."""
    words = [sys.executable, "-c", _SERVER]
    env = {"PATH": os.environ["PATH"], "LANG": LANG}
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=env, start_new_session=True
    )


def pythons() -> dict[str, str]:
    """By version "3.N", one interpreter each."""
    found: dict[str, str] = {}
    patterns = (
        "~/.pyenv/versions/3.*/bin/python3",
        "/usr/bin/python3.*",
        "/usr/local/bin/python3.*",
        "/opt/python/*/bin/python3",
        "/opt/hostedtoolcache/Python/3.*/x64/bin/python3",
    )
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.expanduser(pattern))):
            done = subprocess.run(
                [path, "-c", "import sys; print('3.%d' % sys.version_info[1])"], capture_output=True, text=True
            )
            if done.returncode == 0 and path.rpartition("/")[2].replace("python", "").replace(".", "").isdigit():
                found.setdefault(done.stdout.strip(), path)
    return {version: path for version, path in found.items() if int(version[2:]) >= 8}


PYTHONS = pythons()
