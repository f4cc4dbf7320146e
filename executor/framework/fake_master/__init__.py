"""A master for one machine: what a real one says to a scheduler, with faults to order; see README.md."""
