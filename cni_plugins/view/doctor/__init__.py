"""What is wrong with a node: checks, each with evidence and a remedy.

A check takes the facts (one look at everything that more than one check needs) and yields findings; none is a
healthy answer. What cannot be told (no rights, no answer) is `unknown`, which is not `ok`. A node that works
has no findings: what is merely unusual is not told.
"""
