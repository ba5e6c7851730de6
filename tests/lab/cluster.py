"""A Slurm cluster of the lab: a login node with slurmctld, and three nodes with two GPUs each, which share its homes.

A node has processes, a host name and a boot id of its own, no sshd, and no Docker. Its GPUs are device files without a
device: Slurm counts them. Where this machine has cgroups of version 1, jobs are held to their CPUs, memory and devices.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.host import Docker, LabHost
from tests.lab.lab import Lab
from tests.lab.process import PATIENCE, tail, until

NODES = ("n1", "n2", "n3")
LOGIN = "login"
CGROUPS = Path("/sys/fs/cgroup")
HELD = (CGROUPS / "memory").is_dir()
"""Whether jobs are held to what they asked for."""


COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
_JOB = """account array begin chdir comment constraint cpus-per-task dependency error exclude exclusive export gpus gres
    hold input job-name licenses mem mem-per-cpu nice nodelist nodes no-requeue ntasks ntasks-per-node open-mode output
    overcommit parsable partition qos quiet requeue reservation signal time version wrap"""
_STEP = "cpu-bind exact input jobid kill-on-bad-exit label mpi multi-prog overlap pty relative unbuffered wait"
_LIST = """account all batch clusters format full iterate jobs long me name Node nodelist noheader oneliner partition
    qos responding signal start state states summarize user version"""
OLD = f"""#!/bin/sh
# Knows the long options of Slurm 20.11 which one may want of it, and refuses all others, such as --json
known="{" ".join(_LIST.split())}"
case ${{0##*/}} in sbatch|srun) known="{" ".join(f"{_JOB} {_STEP}".split())}";; esac
for word; do
    case $word in
    --) break;;
    --*) name=${{word#--}}; case " $known " in *" ${{name%%=*}} "*) ;; *)
        echo "${{0##*/}}: unrecognized option '$word'" >&2; exit 1;; esac;;
    -*) ;;
    *) break;;
    esac
done
exec /run/today/"${{0##*/}}" "$@"
"""


class ClusterHost(LabHost):
    """A host of the cluster; all share the homes of the login node, which is made first."""

    def _make_home(self, public_key: str) -> None:
        super()._make_home(public_key)
        if self.name != LOGIN:
            shutil.rmtree(self._folder / "home")
            (self._folder / "home").symlink_to(self._folder.parent / LOGIN / "home")
            for number in range(2):
                os.mknod(self._folder / "root" / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(195, number))
        (self._folder / "old").write_text(OLD)
        (self._folder / "old").chmod(0o755)

    def _more_mounts(self, mine: Mapping[str, str]) -> list[str]:
        """Each command of Slurm is as old as `OLD`, whoever types it."""
        lines = ["mkdir -p /run/slurm /run/slurmctld /run/today"]
        for program in (f"/usr/bin/{name}" for name in COMMANDS):
            today = f"/run/today/{os.path.basename(program)}"
            lines.append(f"touch {today} && mount --bind {program} {today} && mount --bind {mine['old']} {program}")
        return lines

    def _start_services(self) -> None:
        if self.name == LOGIN:
            self.start_controller()
            super()._start_services()
        else:
            self._spawn(["slurmd", "-D", "-N", self.name], self.logs / "slurmd.log")

    def runs(self, program: str) -> bool:
        return bool(self._pids(program))

    def start_controller(self) -> None:
        self._spawn(["slurmctld", "-D"], self.logs / "slurmctld.log")

    def stop_controller(self, number: int = 15) -> None:
        """End slurmctld, and wait for it; jobs go on."""
        self.exec(["kill", f"-{number}", *map(str, self._pids("slurmctld"))])
        until(lambda: not self._pids("slurmctld"), PATIENCE, "slurmctld ends", lambda: "")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """A file of its /etc, before it is up."""
        path = self._folder / inside.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


class Cluster:
    """Its hosts are those of a lab, `login` and `NODES`; off until `up`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        hosts = [lab.host(name, kind=ClusterHost, docker=Docker.ABSENT) for name in (LOGIN, *NODES)]
        self.hosts = {host.name: host for host in hosts if isinstance(host, ClusterHost)}
        known = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts)
        key = os.urandom(512).hex()
        for host in self.hosts.values():
            host.write("etc/hosts", known)
            host.write("etc/slurm/slurm.conf", self._settings())
            host.write("etc/slurm/gres.conf", "NodeName=n[1-3] Name=gpu Type=a100 Count=2 File=/root/gpu[0-1]\n")
            host.write("etc/slurm/cgroup.conf", CGROUP_CONF if HELD else "CgroupPlugin=disabled\n")
            host.write("etc/slurm/slurm.key", key, 0o600)

    @staticmethod
    def missing() -> str | None:
        """Why this machine can't have one; None if it can."""
        absent = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
        return f"programs of Slurm are not installed: {', '.join(absent)} (slurm-wlm)" if absent else Lab.missing()

    @property
    def login(self) -> ClusterHost:
        return self.hosts[LOGIN]

    def up(self) -> Cluster:
        """Switch all on, and wait until the nodes are idle: one that Slurm has taken out of service, as after a job
        that could not be started, comes back. May be called twice."""
        for host in self.hosts.values():
            if host.name != LOGIN and host.is_up() and not host.runs("slurmd"):
                host.down()
            host.up()
        for line in self.ask("sinfo", "-h", "-N", "-R", "-p", "main", "-o", "%N %E").splitlines():
            print(f"Slurm had taken a node out of service: {line}")
            self.ask("scontrol", "update", f"NodeName={line.split()[0]}", "State=RESUME")
        self.until_idle()
        return self

    def until_idle(self) -> None:
        def states() -> str:
            return self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T %E")

        def idle() -> bool:
            return [line.split()[1] for line in states().splitlines()] == ["idle"] * 3

        until(idle, PATIENCE, "the nodes are idle", lambda: "\n".join([states(), *map(self._log, self.hosts)]))

    def ask(self, *words: str) -> str:
        """What a command of Slurm says on the login node, as root."""
        return self.login.exec(words).stdout

    def down(self) -> None:
        """Switch all off. What their jobs leave in the cgroups of this machine goes, too."""
        for host in self.hosts.values():
            host.down()
        for top in sorted(CGROUPS.glob("*/slurm_n[123]")):
            for folder, _, _ in os.walk(top, topdown=False):
                os.rmdir(folder)

    def _log(self, name: str) -> str:
        return tail(self.hosts[name].logs / ("slurmctld.log" if name == LOGIN else "slurmd.log"))

    def _settings(self) -> str:
        nodes = [
            f"NodeName={name} NodeAddr={self.hosts[name].address} CPUs=2 RealMemory=2000 Gres=gpu:a100:2"
            for name in NODES
        ]
        held = HELD_TO_IT if HELD else NOT_HELD
        return "\n".join([SLURM_CONF.format(address=self.login.address), *held, *nodes, PARTITIONS])


HELD_TO_IT: Sequence[str] = (
    "ProctrackType=proctrack/cgroup",
    "TaskPlugin=task/cgroup,task/affinity",
    "JobAcctGatherType=jobacct_gather/cgroup",
)
NOT_HELD: Sequence[str] = (
    "ProctrackType=proctrack/linuxproc",
    "TaskPlugin=task/none",
    "JobAcctGatherType=jobacct_gather/linux",
)
SLURM_CONF = """\
ClusterName=lab
SlurmctldHost=login({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/slurm
CredType=cred/slurm
AuthInfo=use_client_ids
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmdSpoolDir=/var/tmp/slurmd
StateSaveLocation=/var/tmp/slurmctld
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
MinJobAge=300
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
"""
PARTITIONS = """\
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=10 DefMemPerCPU=300 MaxTime=INFINITE
PartitionName=low Nodes=ALL State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 DefMemPerCPU=300
PartitionName=cancel Nodes=ALL State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=5 DefMemPerCPU=300
"""
CGROUP_CONF = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={CGROUPS}
ConstrainCores=yes
ConstrainRAMSpace=yes
ConstrainDevices=yes
"""
