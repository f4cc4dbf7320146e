"""Where the policy of a node lies, for who has to know whether there is one: the rest takes many modules."""

from pathlib import Path

from cni_plugins.spec.roots import Roots


def state_file(roots: Roots) -> Path:
    """What was applied last (policy_state.py)."""
    return roots.run / "policy" / "state.json"
