#!/usr/bin/env python3
"""RunPod (runpod.io) as a provider; see example.py for what is asked and answered. It needs rest.py beside it.

    export RUNPOD_API_KEY=…
    remoterun machines add pod --command "NVIDIA GeForce RTX 4090" --program ./runpod.py --disk 40 --max-cost 5
    remoterun run -t pod "python train.py"

It was written by RunPod's documentation and tried on a stand-in: nobody has run it on the real service yet.

What it can't promise: RunPod itself ends no pod at a time that one sets. The first process of the pod has it removed,
by the key that RunPod gives each pod; where that process never comes up, the pod goes on to cost. Its host key is ours,
but it goes to the pod through RunPod. Pods are on demand, never spot, and have one GPU each. That "no instances" stands
in a refusal for want of capacity, and "not found" in one of a pod that is gone, isn't documented.
"""

import os
from datetime import datetime

from rest import answer, rest

API = os.environ.get("RUNPOD_API", "https://rest.runpod.io/v1")
PRICES = os.environ.get("RUNPOD_PRICES", "https://api.runpod.io/graphql")
IMAGE = "pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime"
LOWEST = "lowestPrice(input: {gpuCount: 1, secureCloud: true}) { uninterruptablePrice }"
QUERY = "{ gpuTypes { id displayName memoryInGb " + LOWEST + " } }"
STATES = {"RUNNING": "running", "EXITED": "stopped", "TERMINATED": "gone"}
CAPACITY, GONE = ("no instances", "No instances"), ("not found", "Not Found")


def call(method, address, body=None, gone=()):
    return rest(method, address, os.environ.get("RUNPOD_API_KEY"), body, CAPACITY, gone)


def hello(asked):
    return {"version": 1, "ends": "host", "end": 'runpodctl remove pod "$RUNPOD_POD_ID"'}


def offers(asked):
    known = {each["id"]: each for each in call("POST", PRICES, {"query": QUERY})["data"]["gpuTypes"]}
    found = [known[each] for each in asked["types"] if each in known]
    return {"offers": [offer(each) for each in found if each["lowestPrice"]["uninterruptablePrice"]]}


def offer(gpu):
    about = {"type": gpu["id"], "region": "any", "gpus": 1, "gpu": gpu["displayName"], "gpu_memory": gpu["memoryInGb"]}
    return {**about, "price": gpu["lowestPrice"]["uninterruptablePrice"], "priced": "now"}


def create(asked):
    pod = {"name": asked["name"], "imageName": asked["image"] or IMAGE, "gpuTypeIds": [asked["offer"]["type"]]}
    pod |= {"gpuCount": 1, "cloudType": "SECURE", "interruptible": False, "supportPublicIp": True}
    pod |= {"ports": ["22/tcp"], "containerDiskInGb": asked["disk"] or 40, "volumeInGb": 0}
    call("POST", f"{API}/pods", {**pod, "dockerEntrypoint": [], "dockerStartCmd": ["sh", "-c", asked["start"]]})
    return {}


def hosts(asked):
    return {"hosts": [listed(each) for each in call("GET", f"{API}/pods?includeMachine=true")]}


def listed(pod):
    began = (pod.get("lastStartedAt") or pod.get("createdAt") or "")[:19]
    port = (pod.get("portMappings") or {}).get("22")
    found = {"id": pod["id"], "name": pod["name"], "state": STATES.get(pod["desiredStatus"], "pending")}
    found |= {"type": (pod.get("machine") or {}).get("gpuTypeId") or "", "price": float(pod["costPerHr"])}
    found |= {"began": datetime.fromisoformat(began + "+00:00").timestamp() if began else 0.0}
    return {**found, "region": "any", "address": (port and pod.get("publicIp")) or "", "port": port or 22}


def delete(asked):
    call("DELETE", f"{API}/pods/{asked['id']}", gone=GONE)
    return {}


def identity(asked):
    call("GET", f"{API}/pods")
    return {"name": "the account of RUNPOD_API_KEY", "account": "RunPod"}


if __name__ == "__main__":
    answer(hello, offers, create, hosts, delete, identity)
