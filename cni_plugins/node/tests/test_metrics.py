from __future__ import annotations

import os
import re

from cni_plugins.node.metrics import Durations, Metrics, memory


def test_percentiles_are_of_the_last_calls() -> None:
    durations = Durations()
    for _ in range(600):
        durations.add(9.0)
    for milliseconds in range(512):
        durations.add(milliseconds / 1000)
    assert durations.percentiles() == {"p50": 256.0, "p90": 460.0, "p99": 506.0, "max": 511.0}
    assert durations.count == 1112
    assert sum(durations.buckets) == 1112


def test_one_call_has_percentiles() -> None:
    durations = Durations()
    durations.add(0.004)
    assert set(durations.percentiles().values()) == {4.0}


def test_the_prometheus_text_is_well_formed() -> None:
    metrics = Metrics('1"2\\')
    metrics.add("bridge", "ADD", 0.0042, 0)
    metrics.add("bridge", "DEL", 99.0, 11)
    metrics.refuse()
    text = metrics.prometheus(3, [os.getpid(), os.getpid()])
    line = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="(\\.|[^"\\])*"(,\w+="(\\.|[^"\\])*")*\})? [-+.\de]+')
    assert all(line.fullmatch(each) for each in text.splitlines())
    assert 'le="0.005"} 1' in text
    assert 'verb="DEL",le="30.0"} 0' in text
    assert "mesokit_node_workers 1" in text


def test_memory_is_known() -> None:
    one = memory([os.getpid()])["pss"]
    assert one > 1 << 20
    assert memory([os.getpid(), os.getppid(), 1 << 30])["pss"] > one
