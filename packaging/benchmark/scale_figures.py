"""What grows on a node with its attachments, and with its age. In a private node, which is thrown away:

    python -m netns_tests.node python packaging/benchmark/scale_figures.py PLUGINS ATTACHMENTS NETWORKS CHURN

PLUGINS is a folder with the unpacked plugins archive. Attachments are spread evenly over the networks
(bridge, host-local, ipMasq, two families); then CHURN containers come and go one after another. A line of
JSON for each state: files and bytes that are ours, elements of our nf_tables sets, the service's memory, and
processor time of an ADD and a DEL (service and launcher) in ms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).parent))
import calls
import driver

OURS = ("/run/mesokit", "/var/lib/mesokit", "/var/lib/cni")
PROBES = 20


def files() -> Iterator[os.stat_result]:
    for root in OURS:
        for path in Path(root).rglob("*"):
            if path.is_file():
                yield path.stat()


def elements() -> int:
    """In all sets and maps of the node."""
    text = subprocess.run(["nft", "-j", "list", "ruleset"], stdout=subprocess.PIPE, check=True).stdout
    listed = json.loads(text)["nftables"]
    return sum(len(each[kind].get("elem", ())) for each in listed for kind in ("set", "map") if kind in each)


def processor(service: int) -> tuple[dict[int, int], float]:
    """Ticks of each process of the service, and seconds of the programs that this one waited for."""
    ticks = {}
    for pid in (service, *driver.children(service)):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks[pid] = int(fields[11]) + int(fields[12])
    times = os.times()
    return ticks, times.children_user + times.children_system


def probed(side: calls.Side, network: calls.Network, service: int) -> float:
    """Seconds of a processor that an ADD and its DEL take; making the namespace is not counted, and neither
    is what a process of the service did that has ended by then.
    """
    total = 0.0
    for number in range(PROBES):
        box = calls.netns("probe")
        before, waited = processor(service)
        for verb in ("ADD", "DEL"):
            calls.run(side, verb, network, f"probe{number}", box)
        after, ended = processor(service)
        ticks = sum(count - before.get(pid, 0) for pid, count in after.items())
        total += ticks / os.sysconf("SC_CLK_TCK") + ended - waited
        subprocess.run(["ip", "netns", "del", "probe"], check=True)
    return total / PROBES


def say(state: str, side: calls.Side, network: calls.Network, service: int) -> None:
    spent = probed(side, network, service)
    found = list(files())
    line = {
        "state": state,
        "files": len(found),
        "kilobytes": round(sum(each.st_size for each in found) / 1000),
        "elements": elements(),
        "service MB": round(driver.pss(service) / 1e6, 1),
        "ADD and DEL, processor ms": round(spent * 1000, 1),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    plugins, attachments, networks, churn = sys.argv[1], *map(int, sys.argv[2:5])
    service = subprocess.Popen([f"{plugins}/mesokit", "node"])
    while not Path("/run/mesokit/node.sock").is_socket():
        time.sleep(0.05)
    try:
        sides = [
            calls.Side("ours", plugins, 100 + i, one_call=True, service=True, env={}) for i in range(networks)
        ]
        made = [calls.dual(side, "sc") for side in sides]
        say("empty", sides[0], made[0], service.pid)
        for number in range(attachments):
            box, i = calls.netns(f"s{number}"), number % networks
            calls.run(sides[i], "ADD", made[i], f"s{number}", box)
            if number + 1 in {attachments // 4, attachments // 2, attachments}:
                say(f"{number + 1} attachments", sides[0], made[0], service.pid)
        for number in range(churn):
            box = calls.netns("churn")
            for verb in ("ADD", "DEL"):
                calls.run(sides[0], verb, made[0], f"churn{number}", box)
            subprocess.run(["ip", "netns", "del", "churn"], check=True)
            if number + 1 in {churn // 2, churn}:
                say(f"{number + 1} came and went", sides[0], made[0], service.pid)
        for number in range(attachments):
            i = number % networks
            calls.run(sides[i], "DEL", made[i], f"s{number}", f"/run/netns/s{number}")
        time.sleep(3)
        say("all gone", sides[0], made[0], service.pid)
    finally:
        service.terminate()
        service.wait(60)


if __name__ == "__main__":
    main()
