"""The lines of `doctor` about a cluster, made on its login node. An answer that the site does not give is no fault."""

from __future__ import annotations

import getpass
import math
import os
import re
import shutil
from typing import List

from ...shared.api import Examine, MachineCheck
from ...shared.files import text_of
from ...shared.spec import Scheduling
from ...store.home import Home
from . import slurm_commands as slurm

_SHARED = re.compile("nfs|lustre|gpfs|beegfs|ceph|panfs|gluster|weka|orangefs|pvfs|afs|cifs|smb|juicefs|quobyte")
"""File systems that machines share."""


def examine(home: Home, asked: Examine) -> List[MachineCheck]:
    """Nothing where runs do not wait for Slurm, and there is none."""
    site = dict(re.findall(r"^(\w+) += (.*?) *$", slurm.said(["scontrol", "show", "config"]), re.MULTILINE))
    if not site:
        fault = MachineCheck("slurm", False, "Slurm does not answer", "is this the login node of a cluster?")
        return [fault] if asked.queue else []
    words = ["sacctmgr", "--noheader", "--parsable2", "show", "user", getpass.getuser(), "withassoc"]
    lines = slurm.said([*words, "format=DefaultAccount,Account,QOS"]).splitlines()
    rows = sorted((line.split("|") for line in lines if line.count("|") == 2), key=lambda row: row[0] != row[1])
    accounts = list(dict.fromkeys(row[1] for row in rows))
    sacct, nodes = slurm.run(["sacct", "--noheader", "--starttime=now"]), slurm.nodes()
    facts = [
        ("slurm", site.get("SLURM_VERSION", "") + ("" if asked.queue else "; runs do not wait in its line yet")),
        ("accounts", ", ".join(accounts)),
        ("qos", ", ".join(sorted({name for row in rows for name in row[2].split(",")} - {""}))),
        *(("partition", line) for line in slurm.of_each_partition(nodes)[:30] or [""]),
        ("max array", site.get("MaxArraySize", "")),
        ("sacct", "on" if sacct and not sacct.returncode else "off" if sacct and "disabled" in sacct.stderr else ""),
        ("shared home", _home(home)),
        ("apptainer", shutil.which("apptainer") or shutil.which("singularity") or "none"),
    ]
    found = [MachineCheck(key, None if it in ("", "off", "none") else True, it or "not known") for key, it in facts]
    said = asked.scheduling or Scheduling()
    said = said._replace(account=said.account or (accounts or [""])[0])
    fitting = [node for node in nodes if node.gpus >= asked.gpus and said.partition in ("", node.partition)]
    for node in sorted(fitting, key=lambda node: not node.default)[:1]:
        least = min(4 * 3600.0, slurm.seconds_of(node.limit) or math.inf)  # who asks for more waits for longer
        said = said._replace(partition=node.partition, time=said.time or least)
    return [*found, MachineCheck("to type", None, "slurm", scheduling=said)]


def _home(home: Home) -> str:
    """Whether nodes have it, as far as its file system says that, and how much of it is the user's."""
    mounts = [line.split(" ") for line in text_of("/proc/self/mounts").splitlines()]
    above = [row for row in mounts if (home.path + "/").startswith(row[1].rstrip("/") + "/")]
    source, point, kind = max(above, key=lambda row: len(row[1]), default=["", "", ""])[:3]
    known = "%s, which machines share" % kind if _SHARED.search(kind) else ""
    for words in (["lfs", "quota", "-q", "-u", str(os.getuid()), point], ["quota", "-w"]):
        done = slurm.run(words)
        for place, used, soft, hard in re.findall(r"(\S+)\s+(\d+)\*?\s+(\d+)\s+(\d+)", done.stdout if done else ""):
            size = int(soft) or int(hard)
            if place in (source, point) and size:
                known = "%s, %.1f of your %.1f GB used" % (known or kind, int(used) / 976562.5, size / 976562.5)
    return known
