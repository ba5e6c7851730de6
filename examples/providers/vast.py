#!/usr/bin/env python3
"""Vast.ai as a provider; see example.py for what is asked and answered. It needs rest.py beside it.

    export VAST_API_KEY=…
    remoterun machines add pod --command "RTX 4090" --program ./vast.py --disk 40 --max-cost 5
    remoterun run -t pod "python train.py"

It was written by Vast's own description of its API, and tried on a stand-in that answers by it: nobody has run it on
the real service yet.

What it can't promise: Vast itself ends no container at a time that one sets; the end of its contract stops it only, and
its disk goes on to cost. The first process of the container has it destroyed, by the key that Vast gives each container
for that (CONTAINER_API_KEY). Where that process never comes up, the container goes on to cost.
The owner of the machine can read all that is on it. Traffic is billed apart, and isn't in the price. An offer is one
machine, and its number stands as the region: three are named of each type, the cheapest first. Never spot; one GPU.
"""

import os

from rest import answer, rest

API = os.environ.get("VAST_API", "https://console.vast.ai")
IMAGE = "pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime"  # one with an entrypoint has to start what it is given
END = f"""python3 -c 'import os, urllib.request as u
u.urlopen(u.Request("{API}/api/v0/instances/" + os.environ["CONTAINER_ID"] + "/", method="DELETE", headers={{
"Authorization": "Bearer " + os.environ["CONTAINER_API_KEY"]}}))'"""
STATES = {"running": "running", "stopped": "stopped", "exited": "stopped", "frozen": "stopped"}


def call(method, path, body=None):
    return rest(method, API + path, os.environ.get("VAST_API_KEY"), body, capacity=("no_such_ask",))


def hello(asked):
    return {"version": 1, "ends": "host", "end": END}


def offers(asked):
    found = []
    for name in asked["types"]:
        query = {
            "gpu_name": {"in": [name]},
            "num_gpus": {"in": [1]},
            "direct_port_count": {"gte": 1},
            "type": "ondemand",
        }
        query |= {"rentable": {"eq": True}, "verified": {"eq": True}, "allocated_storage": asked["disk"] or 40}
        query |= {"order": [["dph_total", "asc"], ["dlperf", "desc"]], "limit": 3}
        found += [offer(name, each) for each in call("POST", "/api/v0/bundles/", query)["offers"]]
    return {"offers": found}


def offer(name, ask):
    about = {"type": name, "region": str(ask["id"]), "gpus": 1, "gpu": name, "gpu_memory": ask["gpu_ram"] / 1024}
    return {**about, "price": ask["dph_total"], "priced": "now"}


def create(asked):
    order = {"label": asked["name"], "image": asked["image"] or IMAGE, "disk": asked["disk"] or 40}
    order |= {"runtype": "args", "args": ["sh", "-c", asked["start"]], "env": "-p 22:22", "cancel_unavail": True}
    call("PUT", f"/api/v0/asks/{asked['offer']['region']}/", order)
    return {}


def hosts(asked):
    page = call("GET", "/api/v1/instances/?limit=25")
    found = page["instances"]
    while page.get("next_token"):
        page = call("GET", f"/api/v1/instances/?limit=25&after_token={page['next_token']}")
        found += page["instances"]
    return {"hosts": [listed(each) for each in found]}


def listed(box):
    port = (box.get("ports") or {}).get("22/tcp")
    found = {"id": str(box["id"]), "name": box["label"] or "", "state": STATES.get(box["actual_status"], "pending")}
    found |= {"type": box["gpu_name"], "price": box["dph_total"], "began": box["start_date"] or 0.0}
    return {**found, "address": box["public_ipaddr"] if port else "", "port": int(port[0]["HostPort"]) if port else 22}


def delete(asked):
    call("DELETE", f"/api/v0/instances/{asked['id']}/")
    return {}


def identity(asked):
    return {"name": call("GET", "/api/v0/users/current/")["email"], "account": "Vast.ai"}


if __name__ == "__main__":
    answer(hello, offers, create, hosts, delete, identity)
