"""Network policy: files in, a table of nf_tables elements out. Pure: nothing here touches a kernel.

Semantics, in full:

* An endpoint is one interface of one container on a network that has policy: its network, addresses, groups,
  labels and container id. `host` is the node itself, `world` is every address that is no endpoint's.
* The set of policies is a set: a packet is allowed when some rule allows it and none denies it. Files and
  rules have no order. Both ends are asked when both are endpoints of this node.
* A network's default (`open`, `isolated`, `groups`) holds for an endpoint and a direction until a policy with
  that direction selects it; then only rules count, unless the policy says `default: keep`. `isolated` allows
  nothing. `groups` allows all egress, and ingress from endpoints of the network that share a group and from
  the world.
* Fixed, and shown by `mesokit policy show`: replies and ICMP errors of allowed flows, an endpoint to itself,
  neighbour discovery, DHCP and the agent's port (tcp/5051) of the host. The host may reach its
  endpoints unless a rule denies it.
* A change holds for flows that exist: packets are judged, not connections. Published ports are judged by the
  container's address and port, with the client's own address.
* Where the host sees no packet (macvlan, ipvlan, VLANs, devices of the host) the same is judged in the
  container's own namespace, for both directions, by interface: see kernel/nft/inside_rules.py. The node's own
  addresses are `host` there.
* A packet that nobody tracks (others' `notrack`) has no flow: who is closed refuses it, unless a policy for
  him has `untracked: both`. Then what his rules of that direction allow passes, by the target's port, and as
  an answer what those of the other allow, by the source's, if that direction is closed too.
* A policy with `audit: true` changes no verdict: what it would have refused is counted and logged.
"""
