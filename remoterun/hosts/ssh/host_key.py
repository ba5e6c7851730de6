"""Whether the machine that answers is the one that was meant: its host key decides, or a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from remoterun.errors import HostKeyError
from remoterun.hosts.ssh.config import HostKeyCheck, SSHSettings, words_of
from remoterun.hosts.ssh.known_hosts import HostKey, KnownHosts, Standing, UnknownHostKey, Verdict, remember


def check_host_key(
    key: HostKey,
    settings: SSHSettings,
    known: KnownHosts,
    address: str,
    confirm: Callable[[UnknownHostKey], bool] | None,
) -> None:
    """Returns when the machine at `address`, which shows `key`, is the one that was meant. A key that is accepted now
    is written to the first of the user's known_hosts files.

    Blocks while a person is asked (`confirm`; None: nobody can be). Raises `HostKeyError`.
    """
    verdict = known.judge(settings.known_as, key)
    if verdict.standing is Standing.KNOWN:
        return
    if verdict.standing is not Standing.UNKNOWN:
        raise _wrong_key(settings, key, verdict)
    file = settings.user_known_hosts[0]
    question = UnknownHostKey(
        host=str(settings.target),
        known_as=settings.known_as,
        address=address,
        key=key,
        file=file,
        others=tuple(f"{line.place} ({line.key.short_kind})" for line in verdict.lines),
    )
    if settings.host_key_check is not HostKeyCheck.ACCEPT_NEW or verdict.lines:
        if settings.host_key_check is HostKeyCheck.REFUSE or confirm is None or settings.batch_mode:
            raise _unknown_key(settings, question, known.notes, "is not known here")
        if not confirm(question):
            raise _unknown_key(settings, question, known.notes, "was not accepted")
    try:
        remember(file, settings.known_as, key, hashed=settings.hash_known_hosts)
    except OSError as error:
        raise HostKeyError(
            f"the host key of `{settings.target}` can't be written to `{file}`",
            evidence=error.strerror,
            hint=f"ls -l {file}",
        ) from error


def _wrong_key(settings: SSHSettings, key: HostKey, verdict: Verdict) -> HostKeyError:
    line = verdict.lines[0]
    if verdict.standing is Standing.REVOKED:
        return HostKeyError(
            f"`{settings.target}` shows a host key that is revoked at {line.place}",
            evidence=f"it shows {key.short_kind} {key.fingerprint}",
            hint="do not connect; ask the administrator of that machine",
        )
    was = "\n".join(f"{line.place} holds {line.key.short_kind} {line.key.fingerprint}" for line in verdict.lines)
    return HostKeyError(
        f"the host key of `{settings.target}` is not the one at {line.place}",
        evidence=f"{was}\nit shows {key.short_kind} {key.fingerprint}\n"
        "either the machine was installed anew, or another machine answers in its place",
        hint=f"ssh-keygen -f {line.file} -R '{settings.known_as}'   if you know that it has changed",
    )


def _unknown_key(settings: SSHSettings, question: UnknownHostKey, notes: Sequence[str], what: str) -> HostKeyError:
    evidence = [f"it shows {question.key.short_kind} {question.fingerprint}"]
    evidence += [f"another kind of key is known at {place}" for place in question.others]
    evidence += [note for note in notes if "cert-authority" in note]
    if settings.host_key_check is HostKeyCheck.NO:
        evidence.append("`StrictHostKeyChecking no` is not followed: any machine could then answer in its place")
    command = f"ssh {words_of(settings.target)}"
    if settings.host_key_check is HostKeyCheck.REFUSE:
        port = f"-p {settings.port} " if settings.port != 22 else ""
        kind = question.key.short_kind.lower()
        command = f"ssh-keyscan -t {kind} {port}{settings.hostname} >> {question.file}"
    elif settings.host_key_check is HostKeyCheck.NO or settings.writes_no_known_hosts:
        options = f"-o StrictHostKeyChecking=ask -o UserKnownHostsFile={question.file}"
        command = f"ssh {options} {words_of(settings.target)} true"
    return HostKeyError(
        f"the host key of `{settings.target}` ({question.address}) {what}",
        evidence="\n".join(evidence),
        hint=f"{command}   compare the fingerprint with the machine's own before you say yes",
    )
