"""Cases of host-local and static."""

from __future__ import annotations

from typing import Any

from netns_tests.case import (
    DEFAULT4,
    DUAL,
    GATEWAY4,
    V4,
    Case,
    Conf,
    bridge,
    local,
    ping,
)


def _host_local_cases() -> list[Case]:
    def ranged(**keys: Any) -> Conf:
        return bridge({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24", **keys}]]})

    def reserved(*files: tuple[str, str]) -> str:
        folder = "/var/lib/cni/networks/net"
        lines = [f"printf '{content}' > {folder}/{name}" for name, content in files]
        return "\n".join([f"mkdir -p {folder}", *lines])

    routes = [{"dst": "10.20.0.0/16"}, {"dst": "10.30.0.0/16", "gw": "10.9.0.7"}, DEFAULT4]
    wanted = bridge({**V4, "type": "host-local"}, capabilities={"ips": True})
    return [
        Case("host-local-short-form", [bridge({"type": "host-local", "subnet": "10.9.0.0/24"})]),
        Case(
            "host-local-short-form-and-ranges",
            [
                bridge(
                    {"type": "host-local", "subnet": "10.9.0.0/24", "ranges": [[{"subnet": "10.10.0.0/24"}]]}
                )
            ],
        ),
        Case("host-local-start-end", [ranged(rangeStart="10.9.0.50", rangeEnd="10.9.0.51")], second=True),
        Case("host-local-start-is-network", [ranged(rangeStart="10.9.0.0")]),
        Case("host-local-start-after-end", [ranged(rangeStart="10.9.0.50", rangeEnd="10.9.0.40")]),
        Case("host-local-start-outside", [ranged(rangeStart="10.8.0.50")]),
        Case("host-local-gateway", [ranged(gateway="10.9.0.254")]),
        Case("host-local-gateway-in-the-way", [ranged(rangeStart="10.9.0.5", gateway="10.9.0.5")]),
        Case("host-local-host-bits", [bridge(local("10.9.0.5/24"))]),
        Case("host-local-30", [bridge(local("10.9.0.0/30"))]),
        Case("host-local-30-exhausted", [bridge(local("10.9.0.0/30"))], second=True),
        Case("host-local-31", [bridge(local("10.9.0.0/31"))]),
        Case("host-local-126", [bridge(local("fd00:9::/126"))]),
        Case("host-local-dual", [bridge(DUAL)], second=True),
        Case(
            "host-local-two-ranges",
            [
                bridge(
                    {
                        "type": "host-local",
                        "ranges": [
                            [
                                {"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.2", "rangeEnd": "10.9.0.2"},
                                {"subnet": "10.9.1.0/24"},
                            ]
                        ],
                    }
                )
            ],
            second=True,
        ),
        Case("host-local-overlap", [bridge(local("10.9.0.0/16", "10.9.1.0/24"))]),
        Case(
            "host-local-mixed-family",
            [
                bridge(
                    {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}, {"subnet": "fd00:9::/64"}]]}
                )
            ],
        ),
        Case("host-local-no-ranges", [bridge({"type": "host-local"})]),
        Case("host-local-two-sets-0.2.0", [bridge(local("10.9.0.0/24", "10.10.0.0/24"))], version="0.2.0"),
        Case(
            "host-local-routes", [bridge(local("10.9.0.0/24", routes=routes), isGateway=True)], reach=GATEWAY4
        ),
        Case(
            "host-local-routes-dual",
            [
                bridge(
                    local(
                        "10.9.0.0/24",
                        "fd00:9::/64",
                        routes=[DEFAULT4, {"dst": "::/0"}, {"dst": "fd00:aa::/64", "gw": "fd00:9::7"}],
                    ),
                    isGateway=True,
                )
            ],
        ),
        Case(
            "host-local-resolv-conf",
            [bridge(local("10.9.0.0/24", resolvConf="/run/r"))],
            setup="printf 'nameserver 10.9.0.1\\ndomain a.b\\nsearch c d\\noptions ndots:2\\n' > /run/r",
        ),
        Case("host-local-resolv-conf-missing", [bridge(local("10.9.0.0/24", resolvConf="/run/none"))]),
        Case("host-local-data-dir", [bridge(local("10.9.0.0/24", dataDir="/var/lib/cni/elsewhere"))]),
        Case("host-local-after-last", [bridge(V4)], setup=reserved(("last_reserved_ip.0", "10.9.0.77"))),
        Case(
            "host-local-wraps",
            [ranged(rangeEnd="10.9.0.20")],
            setup=reserved(("last_reserved_ip.0", "10.9.0.20")),
        ),
        Case(
            "host-local-skips-taken",
            [bridge(V4)],
            setup=reserved(("10.9.0.2", "other\\r\\neth0"), ("10.9.0.3", "other")),
        ),
        Case("host-local-legacy-file", [bridge(V4)], setup=reserved(("10.9.0.9", "old"))),
        Case("host-local-already-has-one", [bridge(V4)], setup=reserved(("10.9.0.9", "c1\\r\\neth0"))),
        Case("host-local-torn-file", [bridge(V4)], setup=reserved(("10.9.0.2", ""))),
        Case("host-local-ip-environment", [bridge(V4)], args="IgnoreUnknown=1;IP=10.9.0.44"),
        Case("host-local-ip-environment-strict", [bridge(V4)], args="IP=10.9.0.44"),
        Case("host-local-ip-args", [bridge(V4, args={"cni": {"ips": ["10.9.0.45"]}})]),
        Case("host-local-ip-capability", [wanted], caps={"ips": ["10.9.0.46"]}),
        Case("host-local-ip-with-length", [wanted], caps={"ips": ["10.9.0.46/16"]}),
        Case(
            "host-local-ip-dual",
            [bridge(DUAL, capabilities={"ips": True})],
            caps={"ips": ["fd00:9::46", "10.9.0.46"]},
        ),
        Case(
            "host-local-ip-one-of-two",
            [bridge(DUAL, capabilities={"ips": True})],
            caps={"ips": ["10.9.0.46"]},
        ),
        Case("host-local-ip-outside", [wanted], caps={"ips": ["10.8.0.46"]}),
        Case("host-local-ip-is-gateway", [wanted], caps={"ips": ["10.9.0.1"]}),
        Case(
            "host-local-ip-taken",
            [wanted],
            caps={"ips": ["10.9.0.46"]},
            setup=reserved(("10.9.0.46", "other\\r\\neth0")),
        ),
        Case("host-local-ip-invalid", [wanted], caps={"ips": ["10.9.0.460"]}),
        Case(
            "host-local-ip-ranges",
            [bridge(V4, capabilities={"ipRanges": True})],
            caps={"ipRanges": [[{"subnet": "10.40.0.0/24"}]]},
        ),
        Case(
            "host-local-ip-ranges-only",
            [bridge({"type": "host-local"}, capabilities={"ipRanges": True})],
            caps={"ipRanges": [[{"subnet": "10.40.0.0/24", "rangeStart": "10.40.0.9"}]]},
        ),
    ]


def _static_cases() -> list[Case]:
    def static(*addresses: Conf, **keys: Any) -> Conf:
        return {"type": "static", "addresses": list(addresses), **keys}

    one = {"address": "10.9.0.5/24", "gateway": "10.9.0.1"}
    return [
        Case("static", [bridge(static(one), isGateway=True)], reach=(ping("c1", "10.9.0.1"),)),
        Case("static-no-gateway", [bridge(static({"address": "10.9.0.5/24"}))]),
        Case(
            "static-no-gateway-on-gateway-bridge",
            [bridge(static({"address": "10.9.0.5/24"}), isGateway=True)],
        ),
        Case(
            "static-dual",
            [bridge(static(one, {"address": "fd00:9::5/64", "gateway": "fd00:9::1"}), isGateway=True)],
        ),
        Case(
            "static-routes-dns",
            [
                bridge(
                    static(
                        one,
                        routes=[DEFAULT4, {"dst": "10.30.0.0/16", "gw": "10.9.0.7"}],
                        dns={"nameservers": ["10.9.0.1"], "domain": "d"},
                    )
                )
            ],
        ),
        Case(
            "static-environment", [bridge(static())], args="IgnoreUnknown=1;IP=10.9.0.6/24;GATEWAY=10.9.0.1"
        ),
        Case("static-args", [bridge(static(one), args={"cni": {"ips": ["10.9.0.7/24"]}})]),
        Case(
            "static-capability",
            [bridge(static(one), capabilities={"ips": True})],
            caps={"ips": ["10.9.0.8/24"]},
        ),
        Case("static-two-on-one-subnet", [bridge(static(one, {"address": "10.9.0.6/24"}))]),
        Case("static-invalid", [bridge(static({"address": "10.9.0.5"}))]),
        Case("static-none", [bridge(static())]),
        Case("static-0.2.0", [bridge(static(one))], version="0.2.0"),
        Case("static-two-0.2.0", [bridge(static(one, {"address": "10.9.0.6/24"}))], version="0.2.0"),
    ]


IPAM = (*_host_local_cases(), *_static_cases())
