"""DHCP: leases for containers' interfaces, got and renewed inside their network namespaces.

    plugin (ADD)     DISCOVER, OFFER, ARP probe, REQUEST, ACK (DHCPv6: SOLICIT, ADVERTISE, REQUEST, REPLY,
                     probe by neighbour solicitation) in the container's namespace; the lease is written to
                     the store; the lease daemon is told, and answers
    lease daemon     reads the store; renews at T1, rebinds at T2, takes the address away when a lease ends
    plugin (DEL)     RELEASE; the file goes; the daemon is told

A prefix for a network (IA_PD) takes the same way, on the host's uplink; see `delegation`.

The store is all the state there is. A daemon that dies forgets nothing: the next one reads the files, and a
DEL in between works from them too. Files are named for the attachment and carry the boot and the clock that
counts from it, so that a clock that is set changes nothing.

| module | subject |
|---|---|
| `packet`, `packet6` | the bytes of RFC 2131 and 2132 messages; of RFC 8415 messages |
| `options` | what options mean: addresses, routes, names |
| `duid` | who a container is to a DHCPv6 server |
| `lease`, `lease6` | a lease of each family, its times, and its file |
| `store` | the files of one daemon's leases |
| `delegation` | a network's prefix: whose it is, whether it can be used, what containers are told |
| `link` | the interface that a lease is for |
| `exchange`, `exchange6` | one request and its answers on a link, without waiting |
| `client`, `client6` | getting and giving back a lease, with waiting |
| `daemon` | the timers and states of all leases of a store |
| `states4`, `states6` | what it says to servers and hears from them |
| `program` | the daemon as a process of its own |
| `protocol` | what plugin and daemon say to each other |
"""
