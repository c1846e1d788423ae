"""Signals that ask a run to stop are noted; only a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal

import pytest

from audiotag.errors import StoppedBySignal, run_command
from audiotag.training.signals import StopRequest


def send(number: int) -> None:
    """A signal to this process; its handler has run when this returns."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_is_noted_and_handlers_come_back(name, capfd):
    number = getattr(signal, name)
    before = [signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with StopRequest() as stop:
        assert stop.name is None
        send(number)
        assert stop.name == name
    assert [signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
    hint = "; Ctrl-C again stops at once" if name == "SIGINT" else ""
    assert capfd.readouterr().err == f"{name}: finishing this update and saving{hint}\n"


@pytest.mark.parametrize("names", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_ctrl_c_twice_stops_at_once(names):
    first, second = (getattr(signal, name) for name in names)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest():
        send(first)
        send(second)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("names", [("SIGUSR1", "SIGTERM"), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGUSR1")])
def test_a_scheduler_that_repeats_itself_does_not_cut_saving_short(names, capfd):
    with StopRequest() as stop:
        for name in names:
            send(getattr(signal, name))
    assert stop.name == names[0]
    assert capfd.readouterr().err.count("finishing this update") == 1


def test_a_signal_that_is_ignored_by_now_stays_ignored():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with StopRequest():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_once_all_is_saved_a_launcher_cannot_end_it_in_another_way():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    try:
        with pytest.raises(StoppedBySignal), StopRequest() as stop:
            send(signal.SIGINT)
            stop.disarm()
            # Otherwise this would count as the second wish to stop.
            send(signal.SIGTERM)
            raise StoppedBySignal("saved")
        for number in (signal.SIGTERM, signal.SIGUSR1):
            send(number)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGUSR1), before, strict=True):
            signal.signal(number, handler)


def test_only_the_first_process_speaks(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    with StopRequest() as stop:
        send(signal.SIGTERM)

    def leave():
        raise StoppedBySignal("stopped")

    with pytest.raises(SystemExit) as left:
        run_command(leave)
    assert (stop.name, left.value.code) == ("SIGTERM", 75)
    assert capfd.readouterr().err == ""


def test_a_stop_is_no_error(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)

    def leave():
        raise StoppedBySignal("stopped by SIGTERM after update 3")

    with pytest.raises(SystemExit) as left:
        run_command(leave)
    assert left.value.code == 75
    assert capsys.readouterr().err == "stopped by SIGTERM after update 3\n"
