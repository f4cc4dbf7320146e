"""Every variable and option the executor reads, parsed once into one frozen object.

Nothing is imported here: `token` must come cheaply, before the rest (see executor/main.py).
"""
