"""Policy that changes while packets flow: nothing leaks, nothing is lost."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from netns_tests.node import Netns, Node, Running, until
from netns_tests.plugins import TOP
from netns_tests.policy_box import Box, apply, conf, task
from netns_tests.test_policy import DB

#: Datagrams with numbers, one a millisecond; what the kernel refuses to send counts as sent.
SENDER = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socks = [socket.socket(family, socket.SOCK_DGRAM) for _ in sys.argv[2:]]
for n in range(1, 10**9):
    for s, port in zip(socks, sys.argv[2:]):
        while True:
            try:
                s.sendto(b"%d" % n, (sys.argv[1], int(port)))
                break
            except ConnectionRefusedError:
                continue
            except OSError:
                break
    time.sleep(0.001)
"""
#: Prints, every 20 ms, how many numbers came and which was the last, of each port.
RECEIVER = """
import select, socket, sys, time
socks = {}
for port in sys.argv[1:]:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", int(port))); s.setblocking(False)
    socks[s] = [port, 0, 0, 0]
print("ready", flush=True)
told = 0
while True:
    for s in select.select(list(socks), [], [], 0.02)[0]:
        n = int(s.recv(100)); c = socks[s]; c[1] += 1; c[2] = n; c[3] = c[3] or n
    if time.monotonic() - told > 0.02:
        told = time.monotonic()
        print(*[x for c in socks.values() for x in c], flush=True)
"""
#: Applies many sets of policies, one after another, in one process.
DRIVER = """
import json, os, sys
from dataclasses import replace
from cni_plugins.policy.read import parse
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import OWN_NETNS, open_namespace
from cni_plugins.spec.roots import roots_from
from cni_plugins.steps import policy_state
host, roots = open_namespace(OWN_NETNS), roots_from(os.environ)
for listed in json.load(sys.stdin):
    found, problems = parse(json.dumps({"policies": listed}), "p.json")
    assert not problems, problems
    with policy_state.opened(roots, host, after(30)) as store:
        store.update(lambda state: replace(state, policies=tuple(found), read=True))
"""


def counts(receiver: Running) -> dict[str, tuple[int, int, int]]:
    """Of each port: how many came, the last number, the first."""
    lines = receiver.output().decode().splitlines()
    last = lines[-1] if receiver.output().endswith(b"\n") else lines[-2]
    words = last.split()
    if words == ["ready"]:
        return {}
    return {
        words[at]: (int(words[at + 1]), int(words[at + 2]), int(words[at + 3]))
        for at in range(0, len(words), 4)
    }


def receiving(box: Netns, *ports: int) -> Running:
    receiver = box.popen([sys.executable, "-c", RECEIVER, *map(str, ports)])
    until(lambda: b"ready" in receiver.output(), what="the receiver listens")
    return receiver


def drive(node: Node, listed: list[list[dict[str, Any]]]) -> None:
    node.run([sys.executable, "-c", DRIVER], input=json.dumps(listed), cwd=str(TOP))


def test_through_many_changes_nothing_leaks_and_nothing_is_lost(node: Node, ours: str) -> None:
    """1,000 changes of every kind: of the profile that judges the flows, of others, of none; a flow that is
    allowed loses no datagram of one a millisecond, one that is denied passes none.
    """
    db, web, other = (Box(node, ours, name, conf(), role=name) for name in ("db", "web", "x"))

    def policies(number: int) -> list[dict[str, Any]]:
        allow = {"allow": ["udp/1000", f"tcp/{5000 + number}"], "from": [{"labels": {"role": "web"}}]}
        made: list[dict[str, Any]] = [{"name": "db", "for": DB["for"], "ingress": [allow]}]
        if number % 3 == 1:
            made.append({"name": "x", "for": {"labels": {"role": "x"}}, "ingress": []})
        if number % 4 == 1:
            made[0]["ingress"].append({"deny": ["udp/3000-4000"], "from": ["any"]})
        if number % 5 == 1:
            made[0]["ingress"].append({"allow": ["udp/1000"], "from": [{"cidr": "10.0.0.0/8"}]})
        if number % 7 == 1:
            made.append({"name": "a", "for": DB["for"], "audit": True, "ingress": []})
        return made

    drive(node, [policies(0)])
    receiver = receiving(db.netns, 1000, 2000)
    sender = web.netns.popen([sys.executable, "-c", SENDER, db.four, "1000", "2000"])
    until(lambda: counts(receiver).get("1000", (0, 0, 0))[0] > 10, what="the allowed flow arrives")
    drive(node, [policies(number) for number in range(1, 1001)])
    apply(node, policies(0))
    sender.kill()
    time.sleep(0.2)
    came, last, first = counts(receiver)["1000"]
    assert came == last - first + 1, f"{last - first + 1 - came} of {last} datagrams lost"
    assert counts(receiver)["2000"][0] == 0
    assert came > 500 and other.name == "x"


def ends_with_the_change(node: Node, db: Box, web: Box, closed: dict[str, Any]) -> None:
    """UDP: nothing arrives that was sent after the change. TCP: the next segment is answered with a reset."""
    apply(node, [DB | {"ingress": [{"allow": ["udp/1000", "tcp/7000"], "from": ["any"]}]}])
    server = db.netns.popen([sys.executable, "-c", HOLDING, "::", "7000"])
    talking = web.netns.popen([sys.executable, "-c", TALKING, db.six, "7000"])
    until(lambda: talking.output().count(b".") > 5, what="the connection talks")
    receiver = receiving(db.netns, 1000)
    sender = web.netns.popen([sys.executable, "-c", SENDER, db.six, "1000"])
    until(lambda: counts(receiver).get("1000", (0, 0, 0))[0] > 10, what="the flow arrives")
    apply(node, [closed])
    time.sleep(0.1)
    before = counts(receiver)["1000"][0]
    time.sleep(0.5)
    assert counts(receiver)["1000"][0] == before
    until(talking.ended, what="the connection is reset")
    assert b"reset" in talking.output()
    for each in (sender, server):
        each.kill()


def test_what_is_denied_ends_with_the_change(node: Node, ours: str) -> None:
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    ends_with_the_change(node, db, web, DB)


HOLDING = """
import socket, sys
with socket.socket(socket.AF_INET6) as s:
    s.bind((sys.argv[1], int(sys.argv[2]))); s.listen()
    c, _ = s.accept()
    while c.recv(100):
        c.sendall(b".")
"""
TALKING = """
import socket, sys, time
end = time.monotonic() + 10
while True:
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 1); break
    except OSError:
        if time.monotonic() > end: raise
        time.sleep(0.05)
try:
    while True:
        s.sendall(b"x"); print(s.recv(10).decode(), flush=True); time.sleep(0.02)
except ConnectionResetError:
    print("reset", flush=True)
"""


def test_no_packet_comes_before_the_policy(node: Node, ours: str) -> None:
    """A peer sends from before the ADD; what is forbidden never arrives, and what is allowed does."""
    write_first = [DB | {"ingress": [{"allow": ["udp/1000"], "from": ["any"]}]}]
    web = Box(node, ours, "web", conf(), role="web")
    apply(node, write_first)
    sender = web.netns.popen([sys.executable, "-c", SENDER, "10.9.0.3", "1000", "2000"])
    receivers = []
    for number in range(3):
        box = node.netns(f"db{number}")
        receivers.append(receiving(box, 1000, 2000))
        made = conf() | {"args": task([], {"role": "db"})}
        made["ipam"] = {"type": "static", "addresses": [{"address": "10.9.0.3/24"}]}
        result = node.cni("ADD", f"{ours}/bridge", made, f"db{number}", box).ok()
        receiver = receivers[-1]
        until(lambda r=receiver: counts(r).get("1000", (0, 0, 0))[0] > 10, what="it arrives")  # type: ignore[misc]
        assert counts(receiver)["2000"][0] == 0
        node.cni("DEL", f"{ours}/bridge", made | {"prevResult": result}, f"db{number}", box).ok()
    sender.kill()
