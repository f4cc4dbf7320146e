"""Every difference between the reference plugins (Debian's v1.1.1) and ours, with the reason why ours is
better.

An entry says in which cases (a pattern over case names) which observations (a pattern over lines "name:
reference -> ours", where "nothing" stands for an absent one) may differ. The differential test fails for a
difference that no entry explains, and for an entry that explains nothing any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    cases: str
    lines: str
    reason: str

    def explains(self, case: str, line: str) -> bool:
        return bool(re.fullmatch(self.cases, case) and re.match(self.lines, line, re.DOTALL))


#: host-local's files for a network stay when a reservation is given back.
POINTER = r"after DEL: file /var/lib/cni/networks/net/(lock|last_reserved_ip\.0) : nothing -> .*"

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        r".*",
        r"after DEL: node: (link|sysctl|address|route|vlan) .*\b(br0|cni0)\b.*-> nothing",
        "a bridge that the plugin made is removed with its last port, with all that was on it",
    ),
    Difference(
        r".*",
        r'after ADD: node: link (br0|cni0)\.ifalias: nothing -> "mesokit"',
        "the mark by which a bridge of ours is known, so that no other is ever removed",
    ),
    Difference(
        r".*",
        r"(after ADD: node: link (br0|cni0)\.address|ADD \w+ result\.interfaces\[0\]\.mac): "
        r'"mac\(node:veth\(.*\)\)" -> "mac\(node:(br0|cni0)\)"',
        "a bridge without gateway keeps its address too; the reference's changes with its ports",
    ),
    Difference(
        r".*",
        r"ADD \w+ result\.dns: \{\} -> nothing",
        "since 1.0.0 an empty dns is left out",
    ),
    Difference(
        r".*",
        r"after ADD: \w+: link \S+\.txqlen: nothing -> 1000",
        "v1.1.1 makes interfaces with no transmit queue by accident; the kernel's default is 1000",
    ),
    Difference(
        r".*",
        r"(ADD|DEL|CHECK) \w+ code: 999 -> (4|5|7|11)",
        "the error's code says what kind of error it is; 999 says nothing",
    ),
    Difference(
        r".*",
        r"DEL \w+ code: (999|1) -> 0",
        "DEL never needs a valid configuration, and what was never added is no error",
    ),
    Difference(
        r"portmap-(mark-bit-invalid|port-zero)|firewall-policy-invalid",
        r"after DEL: (c1: |file /var/lib/cni/networks/net/10\.9\.0\.2).* -> nothing",
        "the reference's DEL refuses the configuration and so leaves the interface and the address",
    ),
    Difference(
        r".*",
        r"after ADD: \w+: address \S+ fd00:.*\.nodad: nothing -> true",
        "IPAM keeps addresses unique: no two seconds' wait for duplicate detection (enabledad)",
    ),
    Difference(
        r"bridge-layer-2.*|ptp.*|(mac|ip)?vlan.*|host-device.*",
        r"after ADD: \w+: sysctl ipv6/conf/\w+/accept_dad: 1 -> 0",
        "the same for every interface, as for bridge",
    ),
    Difference(
        r"(bridge|macvlan)-layer-2.*|ptp.*|vlan.*|host-device.*",
        r"after ADD: \w+: sysctl ipv4/conf/\w+/arp_notify: 0 -> 1",
        "every interface announces itself when it comes up, as bridge's do",
    ),
    Difference(
        r".*",
        r"after ADD: \w+: sysctl ipv6/conf/\w+/(keep_addr_on_down|ndisc_notify): 0 -> 1",
        "IPv6 addresses survive a link that goes down, and are announced as IPv4 ones are",
    ),
    Difference(
        r".*",
        r"after (ADD|CHECK): \w+: sysctl ipv6/conf/\w+/accept_(ra|redirects): 1 -> 0",
        "an interface whose IPv6 addresses we choose believes no advertisements and no redirects",
    ),
    Difference(
        r".*",
        r"after ADD: node: sysctl ipv6/conf/veth\(.*\)/(accept_ra|disable_ipv6): 0 -> 1",
        "a bridge port has no IPv6 of its own, three routes of the host less per container",
    ),
    Difference(
        r"ptp.*",
        r"after ADD: \w+: address eth0 \S+\.noprefixroute: nothing -> true",
        "the subnet route is never made, instead of made and deleted",
    ),
    Difference(
        r"(bridge-layer-2|host-local-(routes|dual|two-ranges|start-end)|tuning|portmap|chain|sbr).*",
        r"CHECK \w+ code: 999 -> 0",
        "the reference's CHECK fails on its own ADD: no IPAM, sysctls, port maps, routes of other tables",
    ),
    Difference(
        r".*-version-1\.1\.0",
        rf"ADD c1 code: 1 -> 0|{POINTER}",
        "1.1.0 is spoken; v1.1.1 of the reference ends at 1.0.0",
    ),
    Difference(
        r"bridge-version-0\.2\.0-layer-2|ptp-no-ipam",
        r"ADD c1 code: 999 -> 0",
        "attachments without addresses work with every plugin and in every result version",
    ),
    Difference(
        r"host-local-31",
        rf"ADD c1 code: 999 -> 0|{POINTER}",
        "a /31 holds two hosts (RFC 3021)",
    ),
    Difference(
        r"host-local-ip-environment-strict",
        rf"ADD c1 code: 999 -> 0|{POINTER}",
        "bridge knows that IP is a variable for its IPAM plugin",
    ),
    Difference(
        r"host-local-torn-file",
        r"(ADD c1 result\.ips|after ADD: c1: (address|route)|after (ADD|DEL): file ).*10\.9\.0\.[23].*"
        r"|after DEL: file .* -> gone",
        "an empty file, left by a crash, reserves nothing; the reference loses the address for ever",
    ),
    Difference(
        r".*",
        r"after DEL: file /var/lib/cni/networks/net/lock : +-> nothing",
        "what can be refused is refused before IPAM is called",
    ),
    Difference(
        r"bridge-name-of-a-veth",
        r"after DEL: file /var/lib/cni/networks/net/last_reserved_ip\.0 : nothing -> 10\.9\.0\.2",
        "the address was reserved and given back before the bridge was tried",
    ),
    Difference(
        r"host-local-ip-outside",
        r"after DEL: file /var/lib/cni/networks/net/last_reserved_ip\.0 : .* -> nothing",
        "a request that no range holds reserves nothing on its way",
    ),
    Difference(
        r"host-local-resolv-conf|static-routes-dns",
        r"ADD c1 result\.dns\.\w+(\[\d\])?: nothing -> .*",
        "v1.1.1 drops the dns that IPAM gives",
    ),
    Difference(
        r"bridge-existing-mtu",
        r"after ADD: (c1: link eth0|node: link veth\(c1:eth0\))\.mtu: 1500 -> 1450",
        "the interface inherits the bridge's MTU; with the reference, large frames vanish",
    ),
    Difference(
        r"bridge-existing-address|bridge-address-conflict",
        r"after DEL: node: link br0: .*",
        "a bridge that stands for a gateway keeps its address from then on, whoever gave it the gateway's",
    ),
    Difference(
        r"loopback-0.*",
        r"ADD c1 result\..*",
        "the reference prints results of version 1.0.0 whatever was asked for",
    ),
    Difference(
        r"tuning-sysctl-dotted",
        r"ADD c1 code: 999 -> 0",
        "the interface's name is put in after dots have become slashes, so it may have dots",
    ),
    Difference(
        r"tuning.*",
        r"after DEL: c1: sysctl .* -> nothing",
        "sysctls are restored when the attachment goes",
    ),
    Difference(
        r"tuning-mtu|tuning-args|chain-of-three",
        r"after ADD: node: link (br0|veth\(c1:eth0\))\.mtu: 1500 -> 1[34]\d0",
        "both ends of the pair get the MTU; with the reference, large frames vanish",
    ),
    Difference(
        r"tuning-queue-length",
        r"after ADD: c1: link eth0\.txqlen: nothing -> 500",
        "v1.1.1 does not know the key",
    ),
    Difference(
        r"tuning-allowlist-refuses",
        r"ADD c1 code: 0 -> 7",
        "v1.1.1 has no allowlist",
    ),
    Difference(
        r"portmap-masquerade-all",
        r"reach tcp world -> .*: seen from 192\.0\.2\.1 -> seen from 10\.9\.0\.1",
        "v1.1.1 does not know the key",
    ),
    Difference(
        r"portmap-same-port-twice",
        r"ADD c2 code: 0 -> 103",
        "a host port that another container has is refused by name; the reference accepts it in vain",
    ),
    Difference(
        r"host-device.*",
        r"after DEL: node: link spare[01]: .* -> nothing",
        "the device is given back as it was: without the alias that the move needs, and up if it was",
    ),
)

#: Those of test_qemu_differential.py, beside the ones above.
RARE_DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        r"ipvlan-default-master|vrf.*",
        r"CHECK \w+ code: 999 -> 0",
        "the reference's CHECK fails on its own ADD",
    ),
    Difference(
        r"vrf.*",
        r'after ADD: c1: link \w+\.ifalias: nothing -> "mesokit"',
        "the mark by which a VRF of ours is known, so that no other is ever removed",
    ),
    Difference(
        r"vrf-no-name",
        r"after DEL: (c1: |file /var/lib/cni/networks/net/10\.9\.0\.2|node: vlan ).* -> nothing",
        "the reference's DEL refuses the configuration and so leaves the interface and the address",
    ),
)
