"""One plugin call: what the process gets, and how its answer is read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from executor.local_agent.plugin_call import PluginCall, PluginError, newer_shape, read_result, run_plugin


def call(plugin: Path, netns: Path | None = Path("/run/ns")) -> PluginCall:
    return PluginCall("ADD", "c1", netns, "eth0", "/a:/b", plugin, b'{"name": "n"}')


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_plugin_gets_cni_variables_and_path_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    output = asyncio.run(run_plugin(call(script(tmp_path, "cat /proc/$$/environ -"))))
    *variables, stdin = output.decode().split("\0")
    assert sorted(variables) == [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/run/ns",
        "CNI_PATH=/a:/b",
        "PATH=/usr/bin:/bin",
    ]
    assert stdin == '{"name": "n"}'


def test_netns_is_left_out_when_it_is_gone(tmp_path: Path) -> None:
    assert "CNI_NETNS" not in call(tmp_path, netns=None).environment


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("""echo '{"code": 7, "msg": "bad", "details": "more"}'; exit 1""", r"bad \(code 7\): more"),
        ("echo 'oh dear' >&2; exit 3", "ended with status 3; it also said: oh dear"),
        ("echo plain; exit 1", "plain"),
        ("kill -9 $$", "status -9"),
    ],
)
def test_failure_is_told_with_all_the_plugin_said(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        asyncio.run(run_plugin(call(script(tmp_path, text))))


def test_plugin_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"cannot run .*No such file"):
        asyncio.run(run_plugin(call(tmp_path / "nothing")))


def test_result_of_the_old_shape() -> None:
    result = read_result(
        b'{"ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"}, "ip6": {"ip": "fd00::2/64"},'
        b' "dns": {"nameservers": ["9.9.9.9"], "search": ["a"]}}\n'
    )
    assert result.addresses == ("10.0.0.2/24", "fd00::2/64")
    assert result.gateways == ("10.0.0.1",)
    assert result.dns.nameservers == ("9.9.9.9",)
    assert not newer_shape(result)


def test_newer_shape_yields_no_address() -> None:
    result = read_result(b'{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}')
    assert result.addresses == ()
    assert newer_shape(result) == "1.0.0"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{} {}", b"{} warning", b'{"ip4": {}}', b'{"ip4": {"ip": "x"}}', b'{"ip4": 3}']
)
def test_what_is_no_result_is_refused(text: bytes) -> None:
    with pytest.raises(PluginError, match="no CNI result"):
        read_result(text)
