"""nf_tables: one table of ours per family, made of sets and maps.

Theory of operation. Everything that mesokit filters or translates is decided by a few rules that look
packets up in sets and maps of the tables `inet mesokit` and `bridge mesokit`. A container more is an
element more, never a rule more: packets meet the same number of rules on a node with one container and on
one with a thousand, and an attachment costs one small transaction.

Two roads lead to the kernel:

* rules and chains are written in nft's language and compiled by libnftables, in this process (`library`).
  That happens when a table is first needed in a namespace, and when a subnet is first seen;
* elements are added, read and removed by netlink messages of our own (`elements`), because libnftables
  first reads every table, chain and set of the node, ours or not, before it touches one element, and has
  to do so again whenever anybody else changes anything meanwhile.

A group of rules is a `Section` (`sections`): its script starts from "flush chain", so that any number of
processes may run it at once and the outcome is the same; a chain whose name carries the section's version
tells that it is there, which is one look-up by name. Elements survive when a section is written anew by a
later release.

What depends on a subnet (leave its own subnet alone, answer hairpins) is a chain per subnet, reached
through the maps' verdicts. The kernel counts those references: a chain is deleted with its last element,
because the kernel refuses to delete it earlier.

Each element's comment begins with a hash of its attachment, so that its holder can be told and orphans can be
found whatever the length of the identifiers.
"""
