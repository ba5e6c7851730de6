"""^C, and what must not be left half-done by it."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import rich.console

from remoterun.cli import interrupt
from remoterun.cli.interrupt import interrupts_held, terminate_as_interrupt
from remoterun.cli.render import live_views


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    monkeypatch.setattr(interrupt, "_last", -interrupt.AT_ONCE)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, which stays so
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_comes_at_the_end(number: int) -> None:
    terminate_as_interrupt()
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        os.kill(os.getpid(), number)
        done.append("all")
    assert done == ["all"]
    with interrupts_held():  # what came once does not come again
        pass
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_one_within_another_ends_with_the_outer() -> None:
    terminate_as_interrupt()
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
        done.append("outer")
    assert done == ["outer"]


def test_several_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "AT_ONCE", 60.0)
    monkeypatch.setattr(interrupt, "_last", -60.0)
    terminate_as_interrupt()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    interrupt._last -= interrupt.AT_ONCE  # later
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_one_that_meets_a_finalizer_comes_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    terminate_as_interrupt()
    item = Finalized()
    with pytest.raises(KeyboardInterrupt):
        del item
        time.sleep(60)
    assert capfd.readouterr() == ("", "")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    terminate_as_interrupt()
    with interrupts_held():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("when", ["set_live", "push_render_hook", "clear_live", "pop_render_hook"])
def test_whenever_the_spinner_is_interrupted_the_terminal_is_given_back(
    when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminate_as_interrupt()
    consoles = []
    of_rich = getattr(rich.console.Console, when)

    def interrupted(console, *arguments):
        consoles.append(console)
        os.kill(os.getpid(), signal.SIGINT)
        return of_rich(console, *arguments)

    monkeypatch.setattr(rich.console.Console, when, interrupted)
    monkeypatch.setattr("remoterun.cli.render.live_views.lively", lambda stream: True)
    steps = live_views.Steps()
    with pytest.raises(KeyboardInterrupt):
        steps.at("Waiting for its turn")
        steps.say("behind run 3")
    monkeypatch.setattr(rich.console.Console, when, of_rich)
    steps.abandon()
    assert consoles[0]._live_stack == []
    assert consoles[0]._render_hooks == []
