"""Undo operations on address reservations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.store.reservations import Owner, opened


def release(context: Context, args: Mapping[str, Any]) -> None:
    """`host-local.release {directory, address, containerID, ifname}`: free the address if it is still its
    owner's.
    """
    directory = args["directory"]
    if Path(directory).is_dir():
        with opened(directory, context.call.roots, context.deadline) as reservations:
            reservations.release(args["address"], Owner(args["containerID"], args["ifname"]))
