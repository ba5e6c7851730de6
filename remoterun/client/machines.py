"""What is done with a machine as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remoterun import machines, upkeep
from remoterun.client.connections import Connections
from remoterun.errors import UsageError
from remoterun.model import MachineType, check_time
from remoterun.session import host_of
from remoterun.transfer import Progress
from remoterun.upkeep import Checked, Collected, Usage


class Machines(Connections):
    """What a client does with machines and their homes."""

    def fabric(self, name: str) -> Any:
        """A `fabric.Connection` to a machine, for what remoterun has no command for; its host key is checked and the
        ssh configuration honoured, which fabric alone does not do. It lives until this client is closed.

        Raises `UsageError` for the machine in front of us, and `HostError`.
        """
        from remoterun.hosts.ssh.host import SSHHost

        machine = self.machine(name)
        host = host_of(machine, self.config, self._prompts)
        if not isinstance(host, SSHHost):
            raise UsageError(f"`{machine.name}` is the machine in front of us", hint="use subprocess")
        self._hosts.append(host)
        return host.fabric()

    def examine(self, machine: MachineType) -> list[dict[str, Any]]:
        """The agent's part of `doctor`: checks with name, ok, detail, fix."""
        session = self.session(machine)
        answer = session.call("doctor", engine=machine.engine, gpus=machine.gpus, base=machine.base_image)
        with session.understood():
            checks = [dict(check) for check in answer["checks"]]
            for check in checks:
                check.update(name=str(check["name"]), ok=check["ok"], detail=str(check["detail"]), fix=check["fix"])
                if check["name"] == "clock":
                    check_time(check.get("time"))
        return checks

    # -- upkeep

    def verify(
        self,
        machine: str | None = None,
        *,
        repair: bool = True,
        progress: Progress | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Checked:
        """Verify everything a machine's home holds; with `repair`, mend it: from its own copies, from the paths of this
        machine that were uploaded, from other machines. `note` is called with what could not be asked. Blocks for as
        long as it takes to read all of it. Raises `HostError`.
        """
        type_ = self.machine(machine)
        known = [found for _, found in self.registry.uploads()] + [run.machine for run in self.registry.runs()]
        others = upkeep.others([*machines.listing(self.config), *known], type_)
        elsewhere = upkeep.Elsewhere(self.registry, others, self.session)
        return upkeep.verify(self.session(type_), elsewhere, repair, progress or Progress(), note)

    def collect(
        self,
        machine: str | None = None,
        *,
        keep: int | None = None,
        envs: bool = False,
        unused: float | None = None,
        dry_run: bool = False,
    ) -> Collected:
        """Free what nothing of a machine's home needs: also versions of uploads but the newest `keep` (None: none), and
        with `envs` environments that nothing has used for `unused` seconds (default: a week). Safe at any moment.
        Raises `HostError`, `TransferError` for a home that is damaged, `UsageError` while another one is at work.
        """
        session = self.session(self.machine(machine))
        return upkeep.collect(session, self.registry, keep, envs, unused, dry_run)

    def usage(self, machine: str | None = None) -> Usage:
        """Who uses how much of a machine's home. Raises `HostError`."""
        return upkeep.usage(self.session(self.machine(machine)), self.registry)
