"""Steps: what an attachment is made of, a feature a file.

A step is a frozen dataclass, one for each kind of change. Everything that it needs is in it (no configuration
is read again), and so is the identity of what it makes: a MAC address, an owner's tag, the address of a
reservation. A name alone is never enough, because a name may be somebody else's by the time of DEL; what lies
in the container is told by its namespace, whose cookie the record's head has.

    apply         make the change. It is in the record already (attach/transaction.py)
    undo          take it back. Idempotent; what is not ours is left alone, what is gone is no error
    check         is it in the kernel as made, up, forwarding? CniError that says what is not
    restore       make again what somebody flushed since: rules and elements, a sysctl. `mesokit reload`
    collect       of a kind: remove what no record covers. For GC, which holds the network's lock
    remove_legacy of a kind: remove what a reference plugin left for an attachment without a record

From the list of steps in a record come ADD's roll-back, DEL, GC, CHECK and reload.
"""
