#!/usr/bin/env python3
"""Google Colab as a provider, by its program `colab` (google-colab-cli); see example.py. It needs rest.py beside it.

    pip install google-colab-cli; colab new -s try; colab stop -s try      logs in
    remoterun machines add colab --command T4,L4,CPU --program ./colab.py --it-may-run-on
    remoterun run -t colab "python train.py"

It was written by that program's documentation and source, and tried on a stand-in: nobody has run it on Colab yet.

What it can't promise: nothing of ours ends a session while your machine is off, though Colab ends one when it likes: it
keeps one alive by a program on your machine, for a day at most. It is billed in compute units, so no price is known.
Sessions are listed by the machine that made them, and by no other; one whose making was interrupted has no name in
`colab sessions`, and is to be ended by hand. Colab lets in one SSH connection at a time, which remoterun's commands
share; it goes by the key COLAB_KEY (~/.ssh/id_ed25519, which must not ask for a passphrase), and within it, another
one goes to an sshd of ours, whose host key is ours. That Colab's sshd forwards that is not documented, nor are the
words by which `colab new` says that there is no capacity: each refusal of it makes the next type be tried.
"""

import os
import re
import shlex
import subprocess
import tempfile

from rest import answer, refuse

KEY = os.environ.get("COLAB_KEY", os.path.expanduser("~/.ssh/id_ed25519"))
PORT = os.environ.get("COLAB_SSHD_PORT", "2222")
GPUS = ("T4", "L4", "G4", "A100", "H100")
LISTED = re.compile(r"\[(rr-\S+)\] (\S+) \| Hardware: (\S+)")
START = "import os, subprocess; subprocess.Popen(['sh', '-c', {!r}], env={{**os.environ, 'SSHD_PORT': '{}'}}, **{})"
ALONE = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def colab(*words, kind="refused", code=""):
    """The output of `colab`, by way of a file: processes that it leaves running may hold a pipe open."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
        given.write(code)
        given.seek(0)
        try:
            status = subprocess.run(["colab", *words], stdin=given, stdout=said, stderr=said, timeout=110).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            return refuse(f"`colab {words[0]}`: {error}", "unreachable")
        said.seek(0)
        text = said.read()
    return refuse(f"`colab {words[0]}`: {text.strip()[-300:]}", kind) if status else text


def hello(asked):
    return {"version": 1, "ends": "client"}


def offers(asked):
    why = "Colab bills compute units"
    known = [each for each in asked["types"] if each in (*GPUS, "CPU")]
    return {"offers": [{"type": each, "gpus": int(each in GPUS), "gpu": each, "unpriced": why} for each in known]}


def create(asked):
    name, kind = asked["name"], asked["offer"]["type"]
    colab("new", "-s", name, *(["--gpu", kind] if kind in GPUS else []), kind="capacity")
    colab("exec", "-s", name, code=START.format(asked["start"], PORT, {**ALONE, "start_new_session": True}))
    return {}


def hosts(asked):
    return {"hosts": [listed(*each) for each in LISTED.findall(colab("sessions"))]}


def listed(name, endpoint, kind):
    through = shlex.join(["colab", "ssh", "--proxy-mode", "-s", name, "-i", KEY])
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", f"ProxyCommand={through}"]
    words = [
        "ssh",
        "-F",
        "none",
        "-i",
        KEY,
        *(f"-o{each}" for each in options),
        "-W",
        f"127.0.0.1:{PORT}",
        "root@colab",
    ]
    return {"id": name, "name": name, "type": kind, "address": "colab", "proxy": shlex.join(words).replace("%", "%%")}


def delete(asked):
    if asked["id"] in colab("sessions"):
        colab("stop", "-s", asked["id"])
    return {}


def identity(asked):
    return {"name": " ".join(re.findall(r"Email: +(.+)", colab("whoami"))), "account": "Colab"}


if __name__ == "__main__":
    answer(hello, offers, create, hosts, delete, identity)
