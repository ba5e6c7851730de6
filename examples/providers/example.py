#!/usr/bin/env python3
"""A provider for `remoterun machines add`: a template, whose "cloud" is the Docker of this machine. It costs nothing.

    remoterun machines add here --command small --program examples/providers/example.py
    remoterun doctor here
    remoterun run -t here "python --version"

It is started for each question, reads one JSON object from stdin and prints one to stdout; what goes
to stderr is shown where something fails. `do` says what is asked; an answer with `error` is a refusal, and its `kind`
may be "capacity" (another type is tried), "busy" (nothing was done, and it is asked again) or "unreachable" (nobody
knows whether it was done). Each answer may have `now`, the provider's clock in seconds since 1970: all times are by it.

hello     -> version 1; ends: "server" (the provider itself ends a host after `seconds`, and each host says when, in
             `ends`), "host" (the first process of the host, which is `start`, ends it: by its own end, or by `end`, a
             command for the host's shell), or "client" (nothing does: refused, unless --it-may-run-on is typed).
             folder: where hosts have the bucket of [archive] as a folder, if they have it; else they write by forms.
             That a machine is switched off from inside is no end where its provider goes on to bill it.
offers    types, region, spot, disk -> offers: of these types those that may be had, in their order; price is in US
             dollars an hour. gpus, gpu, gpu_memory (GiB), vcpus and memory are shown.
create    name, offer {type, region}, seconds, deadline, key (our public key), start (a script that the container has to
             start as its first process, or a virtual machine at its boot, as root; it brings sshd, at port $SSHD_PORT
             or 22), disk, image -> {}
hosts     -> hosts: id, name (as it was given), state ("pending", "running", "stopped", "ending", "gone"), type, region,
             price, began (seconds since 1970), address, port, user; proxy: a ProxyCommand of ssh; host_key
delete    id -> {}; a host that is gone is fine
identity  -> name, account (who pays: hosts that were asked for with another one are not listed, and not gone)
"""

import json
import subprocess
import sys
from datetime import datetime

IMAGE, LABEL = "python:3.12-slim", "remoterun-example"
STATES = {"created": "pending", "running": "running", "exited": "gone", "dead": "gone", "removing": "ending"}


def docker(*words):
    return subprocess.run(["docker", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def hello(asked):
    return {"version": 1, "ends": "host"}  # the end of its first process ends a container


def offers(asked):
    return {"offers": [{"type": each, "region": "here", "price": 0.0} for each in asked["types"] if each == "small"]}


def create(asked):
    image = asked["image"] or IMAGE
    words = ["--name", asked["name"], "--label", LABEL, "-p", "127.0.0.1::22", image, "sh", "-c", asked["start"]]
    docker("run", "-d", "--rm", *words)
    return {}


def hosts(asked, tries=3):
    ids = docker("ps", "-aq", "--filter", f"label={LABEL}").split()
    try:
        return {"hosts": [listed(each) for each in json.loads(docker("inspect", *ids))] if ids else []}
    except subprocess.CalledProcessError:  # one of them has ended meanwhile
        if tries == 1:
            raise
        return hosts(asked, tries - 1)


def listed(container):
    ports = container["NetworkSettings"]["Ports"].get("22/tcp") or [{"HostIp": "", "HostPort": "22"}]
    return {
        "id": container["Id"][:12],
        "name": container["Name"].lstrip("/"),
        "state": STATES.get(container["State"]["Status"], "stopped"),
        "type": "small",
        "region": "here",
        "price": 0.0,
        "began": datetime.fromisoformat(container["Created"][:19] + "+00:00").timestamp(),
        "address": ports[0]["HostIp"],
        "port": int(ports[0]["HostPort"]),
    }


def delete(asked):
    subprocess.run(["docker", "rm", "-f", asked["id"]], check=True, stdout=subprocess.DEVNULL)
    return {}


def identity(asked):
    return {"name": "Docker of this machine", "account": docker("info", "--format", "{{.Name}}").strip()}


if __name__ == "__main__":
    question = json.load(sys.stdin)
    calls = {each.__name__: each for each in (hello, offers, create, hosts, delete, identity)}
    call = calls.get(question["do"], lambda asked: {"error": f"`{asked['do']}` is not known here"})
    print(json.dumps(call(question)))
