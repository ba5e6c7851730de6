"""A run on several nodes of Slurm: its command is one step of its job, which srun starts on each node, and ends on all
once it has failed on one.

    RUN/control/on_node   what srun starts on each node, and by which others know that a run has several
    RUN/control/failed    the first exit status that is not 0; `ended`: that of srun; `oom`: what Slurm has killed
"""

from __future__ import annotations

import json
import os
from typing import List

from ...shared.files import remove_tree, write_whole
from ...shared.spec import RunSpec
from ...store.run_folder import RunFolder
from ..engines.wrapper import END, command_text, quote
from ..processes import KEY
from . import slurm_commands as slurm

ON_NODE = r"""# remoterun: the command, on one of its nodes
trap stopping=1 TERM
trap : HUP INT
%(variables)s
export RANK="$SLURM_NODEID" NODE_RANK="$SLURM_NODEID" PET_NODE_RANK="$SLURM_NODEID"
export TF_CONFIG='{"cluster": {"worker": %(workers)s}, "task": {"type": "worker", "index": '"$SLURM_NODEID"'}}'
%(streams)s
/bin/sh -c %(command)s
code=$?
[ $code = 0 ] || (set -C && echo $code >%(control)s/failed) 2>/dev/null
[ -z "$stopping" ] || exit 0 # the others may still be saving their work
exit $code
"""
LAUNCH = r"""
trap forced=137 TERM
name() {
    trap '' TERM
    exec sed -u %(names)s
}
{
    {
        srun %(options)s /bin/sh %(control)s/on_node 2>&1 >&5
        echo $? >%(control)s/ended
    } | name >&2
} 5>&1 | name
tail -n 50 %(log)s | sed -n 's/.*error: Detected .* oom.kill event.*/oom_kill 1/p' >%(control)s/oom
read -r code <%(control)s/failed || read -r code <%(control)s/ended
exit "${forced:-$code}"
"""
SIGNALLED = 20.0
"""Seconds in which a signal has to be on all nodes."""


def on_each(run: RunFolder, spec: RunSpec, job: str) -> str:
    """The line for the shell that has the command of a run on each node of its job; its own where that has one."""
    if (spec.nodes or 1) == 1:
        return spec.command
    names = slurm.said(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]).split()
    port = 15000 + int(job) % 16384  # below those that the kernel gives to clients
    variables = {  # what the user has set stays
        "WORLD_SIZE": len(names), "LOCAL_RANK": 0, "MASTER_ADDR": names[0], "MASTER_PORT": port,
        "PET_NNODES": len(names), "PET_MASTER_ADDR": names[0], "PET_MASTER_PORT": port, "PET_RDZV_BACKEND": "static",
    }  # fmt: skip
    os.makedirs(run.control, 0o700, exist_ok=True)
    for name in ("failed", "ended", "oom"):
        remove_tree(os.path.join(run.control, name))
    text = ON_NODE % {
        "variables": "\n".join('export {0}="${{{0}:-{1}}}"'.format(*pair) for pair in variables.items()),
        "workers": json.dumps(["%s:%d" % (name, port) for name in names]),
        "control": quote(run.control),
        "command": quote(". " + quote(run.command_file)),
        "streams": "" if spec.split else "exec 2>&1",  # srun does not keep the order of two streams
    }
    write_whole(run.command_file, command_text(spec.command, run.control).encode("utf-8", "surrogateescape"))
    write_whole(run.on_node_file, text.encode())
    step = "--nodes=%d --ntasks=%d --ntasks-per-node=1 --label --export=ALL --wait=0 --kill-on-bad-exit=1"
    step += " ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}"  # which srun does not take over
    return LAUNCH % {
        "names": " ".join("-e 's/^ *%d: /%s: /'" % (rank, name) for rank, name in enumerate(names)),
        "options": step % (len(names), len(names)),
        "control": quote(run.control),
        "log": quote(run.err if spec.split else run.log),
    }


def terminate_others(run: RunFolder, job: str) -> bool:
    """Send SIGTERM to what a run has on nodes that are not this one; whether that was done."""
    others = (run.spec().nodes or 1) - 1
    if not others or not os.path.exists(run.on_node_file):
        return True
    step: List[str] = ["--jobid=" + job, "--overlap", "--relative=1", "--nodes=%d" % others, "--ntasks=%d" % others]
    words = ["srun", *step, "--quiet", "/bin/sh", "-c", END, "sh", "%s=%s" % (KEY, run.key), "TERM"]
    done = slurm.run(words, SIGNALLED)
    return done is not None and not done.returncode
