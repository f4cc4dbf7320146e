"""46: what is refused, or would be, is logged: some of it, and a line of the log tells between whom it was.
The log is netfilter's own (NFLOG), whoever reads it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest

from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf
from netns_tests.policy_world import PROBE
from netns_tests.test_policy import DB
from netns_tests.test_policy_changes import SENDER
from netns_tests.test_policy_scenarios import ASKED, notrack

#: Binds to group 5 and prints prefix, source and target of each packet (linux/netfilter/nfnetlink_log.h).
READER = """
import socket, struct
from ipaddress import ip_address
def attribute(kind, data):
    return (struct.pack("=HH", 4 + len(data), kind) + data).ljust(4 + len(data) + (-len(data) & 3), b"\\0")
def configure(*attributes):
    body = struct.pack(">BBH", 0, 0, 5) + b"".join(attributes)
    log.send(struct.pack("=IHHII", 16 + len(body), 4 << 8 | 1, 5, 1, 0) + body)
    assert struct.unpack_from("=i", log.recv(4096), 16)[0] == 0
log = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
log.bind((0, 0))
configure(attribute(1, b"\\1"))
configure(attribute(2, struct.pack(">IBB", 64, 2, 0)))
print("ready", flush=True)
while True:
    data, at = log.recv(1 << 16), 0
    while at < len(data):
        size, = struct.unpack_from("=I", data, at)
        fields, place = {}, at + 20
        while place < at + size:
            length, kind = struct.unpack_from("=HH", data, place)
            fields[kind & 0x3fff] = data[place + 4 : place + length]
            place += length + (-length & 3)
        at += size + (-size & 3)
        if 9 not in fields:  # the end of several
            continue
        packet = fields[9]
        ends = (packet[12:16], packet[16:20]) if packet[0] >> 4 == 4 else (packet[8:24], packet[24:40])
        print(fields[10].rstrip(b"\\0").decode().strip(), *map(ip_address, ends), sep="|", flush=True)
"""
RATE, BURST = 50, 100


@pytest.mark.parametrize("audit", [False, True])
def test_a_line_tells_between_whom_and_there_are_few(node: Node, ours: str, audit: bool) -> None:
    """Of a thousand packets a second and family; audit lets them pass, counts all and logs the same way."""
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "x"))
    apply(node, [DB | {"audit": audit}])
    reader = node.popen([sys.executable, "-c", READER])
    until(lambda: b"ready" in reader.output(), what="the log is read")
    began = time.monotonic()
    sending = [web.netns.popen([sys.executable, "-c", SENDER, each, "1000"]) for each in db.addresses]
    until(lambda: reader.output().count(b"\n") > BURST + RATE, what="it is logged")
    for each in sending:
        each.kill()
    seconds = time.monotonic() - began
    lines = [line.split("|") for line in reader.output().decode().splitlines()[1:]]
    reader.kill()
    # A chain of each family has its own limit.
    families = 2 if audit else 1
    assert len(lines) <= families * (BURST + RATE * (seconds + 1)), (len(lines), seconds)
    assert {line[0] for line in lines} == {"mesokit audit" if audit else "mesokit deny"}
    assert {tuple(line[1:]) for line in lines} == {(web.four, db.four), (web.six, db.six)}
    for address, name in ((lines[0][1], "x"), (lines[0][2], "db")):
        (item,) = node.run([MESOKIT, "inspect", address, "--json"]).json()["items"]
        assert item["container_id"] == name, item
    if audit:
        (found,) = json.loads(node.run([MESOKIT, "policy", "audit", "--json"]).text)
        assert found["packets"] > len(lines) and found["containers"] == ["db"]


def test_what_nobody_tracks_is_logged_as_such(node: Node, ours: str) -> None:
    """40: with its reason."""
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    apply(node, [ASKED])
    notrack(node)
    asked: list[Any] = [(address, "udp", 53) for address in db.addresses]
    with started(node.popen([sys.executable, "-c", READER])) as reader:
        until(lambda: b"ready" in reader.output(), what="the log is read")
        web.netns.run(["python3", PROBE, "ask", "0.2"], input=json.dumps(asked))
        until(lambda: reader.output().count(b"\n") > 2, what="both are logged")
        lines = set(reader.output().decode().splitlines()[1:])
    wanted = ((web.four, db.four), (web.six, db.six))
    assert lines == {"|".join(("mesokit deny untracked", *each)) for each in wanted}
