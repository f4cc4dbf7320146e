"""DHCP: leases for containers' interfaces, got and renewed inside their network namespaces.

    plugin (ADD)     DISCOVER, OFFER, ARP probe, REQUEST, ACK in the container's namespace; the lease is
                     written to the store; the lease daemon is told, and answers
    lease daemon     reads the store; renews at T1, rebinds at T2, takes the address away when a lease ends
    plugin (DEL)     RELEASE; the file goes; the daemon is told

The store is all the state there is. A daemon that dies forgets nothing: the next one reads the files, and a
DEL in between works from them too. Files are named for the attachment and carry the boot and the clock that
counts from it, so that a clock that is set changes nothing.

| module | subject |
|---|---|
| `packet` | the bytes of RFC 2131 and 2132 messages |
| `options` | what options mean: addresses, routes, names |
| `lease` | a lease, its times, and its file |
| `store` | the files of one daemon's leases |
| `exchange` | one request and its answers on a link, without waiting |
| `client` | getting and giving back a lease, with waiting |
| `daemon` | the timers and states of all leases of a store |
| `protocol` | what plugin and daemon say to each other |
"""
