"""What names an attachment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """One interface of one container on one network."""

    network: str
    container_id: str
    ifname: str
