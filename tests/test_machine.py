"""The check of the machine: quiet where all is well, and otherwise it names the trouble and the cure."""

import socket
import types

import pytest

from utils import machine


def test_a_good_machine_is_one_line():
    report = machine.Report([machine.Finding("Python", "3.11.7"), machine.Finding("cores", "2")])
    assert report.good
    assert report.lines() == ["All good: Python 3.11.7, cores 2."]


def test_this_machine_can_run_the_course():
    report = machine.check()
    assert [f.what for f in report.findings] == ["Python", "torch", "cores", "memory", "disk", "loopback"]
    assert report.good, repr(report)


def test_nothing_machine_specific_is_shown():
    assert socket.gethostname() not in repr(machine.check())
    assert "/" not in repr(machine.check())


def by_name(report):
    return {finding.what: finding for finding in report.findings}


def test_an_old_python_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(machine, "PYTHON", (3, 99))
    report = machine.check()
    assert not report.good
    assert "Install Python 3.99" in repr(report)


def test_a_missing_torch_is_named_with_its_cure(monkeypatch):
    def missing(name):
        raise machine.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.importlib.metadata, "version", missing)
    report = machine.check()
    assert not report.good
    assert "pip install -r requirements.txt" in by_name(report)["torch"].cure


def test_another_torch_is_a_limit_and_no_bar(monkeypatch):
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: "2.12.1+cu130")
    report = machine.check()
    assert report.good
    assert "2.13.0" in by_name(report)["torch"].cure
    assert report.lines()[0] == "The course runs here, with a limit:"


def test_little_memory_and_one_core_are_limits(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=1.2e9))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0}, raising=False)
    report = machine.check()
    assert report.good
    assert "1.2 GB free" in repr(report)
    assert "share one core" in repr(report)


def test_a_blocked_loopback_is_named_with_its_cure(monkeypatch):
    def refuse(*_, **__):
        raise OSError("not permitted")

    monkeypatch.setattr(machine.socket, "create_server", refuse)
    report = machine.check()
    assert not report.good
    assert "firewall" in by_name(report)["loopback"].cure


def test_a_look_that_fails_hides_no_other(monkeypatch):
    def broken():
        raise RuntimeError("no such counter")

    monkeypatch.setattr(machine, "_memory", broken)
    monkeypatch.setattr(machine, "_cores", broken)
    report = machine.check()
    assert report.good
    assert [f.what for f in report.findings][-1] == "loopback"
    assert "no such counter" in repr(report)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>"])
def test_what_is_shown_is_escaped(text):
    shown = machine.Report([machine.Finding("Python", text)])._repr_mimebundle_()
    assert "<script>" not in shown["text/html"]
