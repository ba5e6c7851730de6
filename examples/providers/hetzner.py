#!/usr/bin/env python3
"""Hetzner Cloud as a provider, of machines without a GPU; see example.py. It needs rest.py beside it.

    export HETZNER_TOKEN=…           of a project in the console: may read and write
    remoterun machines add vm --command cx33,cpx32 --program ./hetzner.py --max-cost 2 --it-may-run-on
    remoterun run -t vm "python prepare.py"

It was written by Hetzner's own description of its API, and tried on a stand-in that answers by it: nobody has run it on
the real service yet.

What it can't promise: Hetzner ends no server at a time that one sets, and one that is switched off goes on to cost: it
has to be deleted, for which one needs a token, and a token may delete all that is in its project. So by itself a server
gets none, and nothing ends it while your machine is off. With HETZNER_HOST_TOKEN, a token of a project that has nothing
else in it (the same one as HETZNER_TOKEN's), each server gets that and deletes itself. Everyone on the server can read
it, then: every run there can delete, and rent at your cost, what it likes in that project.

Prices are in the currency of the account: for one in euros HETZNER_DOLLARS says what one is worth, 1.25 if it doesn't.
The address costs a little more. Without HETZNER_SSH_KEYS, names of keys in the project, Hetzner sends a mail with a
password for each server; ours goes in by the start script. Root's port for us is 2222. Of errors, the code
"resource_unavailable" stands for want of capacity, in documentation; "placement_error" does so, too, by its name only.
"""

import os
import shlex
from datetime import datetime

from rest import answer, rest

API = os.environ.get("HETZNER_API", "https://api.hetzner.cloud/v1")
ABOUT = os.environ.get("HETZNER_METADATA", "http://169.254.169.254/hetzner/v1/metadata")
PORT = os.environ.get("HETZNER_SSHD_PORT", "2222")
DOLLARS = float(os.environ.get("HETZNER_DOLLARS", "1.25"))
AGAIN = "/var/lib/cloud/scripts/per-boot/remoterun"  # cloud-init starts what is there at each later boot
STATES = {"initializing": "pending", "starting": "pending", "off": "stopped", "deleting": "ending"}


def call(method, path, body=None):
    capacity = ("resource_unavailable", "placement_error")
    return rest(method, API + path, os.environ.get("HETZNER_TOKEN"), body, capacity)


def pages(kind):
    found, page = [], 1
    while page:
        answered = call("GET", f"/{kind}?per_page=50&page={page}")
        found, page = found + answered[kind], answered["meta"]["pagination"]["next_page"]
    return found


def hello(asked):
    if not (token := os.environ.get("HETZNER_HOST_TOKEN")):
        return {"version": 1, "ends": "client"}
    bearer = shlex.quote(f"Authorization: Bearer {token}")
    return {
        "version": 1,
        "ends": "host",
        "end": f'curl -X DELETE -H {bearer} "{API}/servers/$(curl {ABOUT}/instance-id)"',
    }


def offers(asked):
    known, rate = {each["name"]: each for each in pages("server_types")}, 1.0
    if any(each in known for each in asked["types"]):
        rate = {"USD": 1.0, "EUR": DOLLARS}[call("GET", "/pricing")["pricing"]["currency"]]
    found = []
    for kind in (known[each] for each in asked["types"] if each in known):
        for price in sorted(kind["prices"], key=lambda each: float(each["price_hourly"]["gross"])):
            if asked["region"] in (None, "", price["location"]):
                about = {"type": kind["name"], "region": price["location"], "vcpus": kind["cores"]}
                gross = float(price["price_hourly"]["gross"])
                found.append({**about, "memory": kind["memory"], "price": gross * rate, "priced": "now"})
    return {"offers": found}


def create(asked):
    start = f'#!/bin/sh\ncp "$0" {AGAIN}\nexport SSHD_PORT={PORT}\n{asked["start"]}'
    server = {"name": asked["name"], "server_type": asked["offer"]["type"], "location": asked["offer"]["region"]}
    server |= {"image": asked["image"] or "ubuntu-24.04", "user_data": start}
    call("POST", "/servers", {**server, "ssh_keys": os.environ.get("HETZNER_SSH_KEYS", "").split()})
    return {}


def hosts(asked):
    return {"hosts": [listed(each) for each in pages("servers")]}


def listed(server):
    found = {"id": str(server["id"]), "name": server["name"], "state": STATES.get(server["status"], "running")}
    found |= {
        "type": server["server_type"]["name"],
        "began": datetime.fromisoformat(server["created"].replace("Z", "+00:00")).timestamp(),
    }
    return {**found, "address": (server["public_net"]["ipv4"] or {}).get("ip", ""), "port": int(PORT)}


def delete(asked):
    call("DELETE", f"/servers/{asked['id']}")
    return {}


def identity(asked):
    call("GET", "/servers?per_page=1")
    return {"name": "the project of HETZNER_TOKEN", "account": "Hetzner"}


if __name__ == "__main__":
    answer(hello, offers, create, hosts, delete, identity)
