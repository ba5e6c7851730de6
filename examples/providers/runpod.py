#!/usr/bin/env python3
"""RunPod (runpod.io) as a provider; see example.py for what is asked and answered. It needs rest.py beside it.

    export RUNPOD_API_KEY=…
    remoterun machines add pod --command "NVIDIA GeForce RTX 4090" --program ./runpod.py --disk 40 --max-cost 5
    remoterun run -t pod "python train.py"

It was written by RunPod's own description of its API v2, and tried on a stand-in that answers by it: nobody has run it
on the real service yet.

What it can't promise: RunPod itself ends no pod at a time that one sets. The first process of the pod has it deleted,
by the key that RunPod gives each pod; where that process never comes up, the pod goes on to cost. Its host key is ours,
but it goes to the pod through RunPod. Pods are on demand, never spot, and have one GPU each. A refusal with 400 stands
for want of capacity and for a wrong request alike, by that description: each makes the next type be tried. That `args`
are split into words by the quotes of a shell isn't documented; an image with an entrypoint has to start what they say.
`runpodctl pod delete` of July 2026 asks API v1, which is switched off; where it fails, `runpodctl remove pod` is tried.
"""

import os
from datetime import datetime

from rest import answer, rest

API = os.environ.get("RUNPOD_API", "https://api.runpod.io/v2")
IMAGE = "pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime"
STATES = {"RUNNING": "running", "EXITED": "stopped", "ERROR": "stopped", "TERMINATED": "gone"}
END = 'runpodctl pod delete "$RUNPOD_POD_ID" || runpodctl remove pod "$RUNPOD_POD_ID"'
ARGS = """sh -c 'start="$REMOTERUN_START"; unset REMOTERUN_START; eval "$start"'"""


def call(method, path, body=None, capacity=()):
    return rest(method, API + path, os.environ.get("RUNPOD_API_KEY"), body, capacity)


def hello(asked):
    return {"version": 1, "ends": "host", "end": END}


def offers(asked):
    gpus = call("GET", "/catalog/gpus?include=AVAILABILITY&product=POD&cloud=SECURE")["gpus"]
    known = {each["id"]: each for each in gpus if each["secure"] and each.get("availability") != "NONE"}
    return {"offers": [offer(known[each]) for each in asked["types"] if each in known]}


def offer(gpu):
    about = {"type": gpu["id"], "region": "any", "gpus": 1, "gpu": gpu["name"], "gpu_memory": gpu["memory"]}
    return {**about, "price": gpu["price"]["secure"], "priced": "now"}


def create(asked):
    pod = {"name": asked["name"], "image": asked["image"] or IMAGE, "disk": asked["disk"] or 40, "cloud": "SECURE"}
    pod |= {"gpu": {"id": asked["offer"]["type"], "count": 1}, "ports": ["22/tcp"]}
    call("POST", "/pods", {**pod, "args": ARGS, "env": {"REMOTERUN_START": asked["start"]}}, capacity=("400: ",))
    return {}


def hosts(asked):
    return {"hosts": [listed(each) for each in call("GET", "/pods")["pods"]]}


def listed(pod):
    began, ssh = (pod["startedAt"] or pod["createdAt"])[:19], pod["ssh"]["direct"] or {"host": "", "port": 22}
    found = {"id": pod["id"], "name": pod["name"], "state": STATES.get(pod["status"], "pending"), "region": "any"}
    found |= {"type": pod["gpu"]["id"] if "gpu" in pod else "", "price": pod["cost"]}
    found |= {"began": datetime.fromisoformat(began + "+00:00").timestamp()}
    return {**found, "address": ssh["host"], "port": ssh["port"]}


def delete(asked):
    call("DELETE", f"/pods/{asked['id']}")
    return {}


def identity(asked):
    call("GET", "/pods")
    return {"name": "the account of RUNPOD_API_KEY", "account": "RunPod"}


if __name__ == "__main__":
    answer(hello, offers, create, hosts, delete, identity)
