"""The door to the kernel: one codec, and a socket for each family (route, netfilter)."""
