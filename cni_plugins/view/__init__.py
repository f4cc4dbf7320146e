"""One model of the node, which every command of the operator reads.

`load` reads records, reservations, the host's links and what runtimes say of their containers;
`attachments`, `pools` and `find` are pure and turn that into attachments, pools and answers to "who is X?".
`endpoint` enters one container's namespace, `doctor` holds the checks, `probe` sends packets. Nothing here
changes the node but `collect`.
"""
