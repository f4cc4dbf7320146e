"""Who a container is to a DHCPv6 server (RFC 8415 section 11): its DUID, and the IAID of each interface.

Both are made of names that stay (the container's, the network's, the interface's), so that a server gives a
container that is attached again the address it had. Two nodes never share a container's id, so they never
share a DUID.
"""

import hashlib
import uuid

from cni_plugins.dhcp.packet6 import LONGEST_DUID
from cni_plugins.spec.identity import Identity

_BY_UUID = 4  # DUID-UUID, RFC 6355
_NAMESPACE = uuid.UUID("5d1f4f0a-5f0c-5b0e-9a57-3c1d2b7e6a90")
SHORTEST_DUID = 3


def of_container(container_id: str) -> bytes:
    """A DUID-UUID made of the container's id."""
    return _BY_UUID.to_bytes(2, "big") + uuid.uuid5(_NAMESPACE, container_id).bytes


def of_uplink(mac: str) -> bytes:
    """A DUID-UUID of this host as a requesting router, made of its uplink's MAC address: another than that of
    the host's own DHCP client, so that neither takes the other's leases for its own.
    """
    return _BY_UUID.to_bytes(2, "big") + uuid.uuid5(_NAMESPACE, f"uplink {mac}").bytes


def association(identity: Identity) -> bytes:
    """The IAID of an interface: four bytes. It has the container in it, so that containers which were given
    one DUID are still told apart.
    """
    key = "\0".join((identity.container_id, identity.network, identity.ifname))
    return hashlib.sha256(key.encode()).digest()[:4]


def parse(text: str) -> bytes:
    """A DUID as people write it: hexadecimal digits, with colons, dashes or nothing between. ValueError."""
    plain = text.replace(":", "").replace("-", "")
    try:
        found = bytes.fromhex(plain)
    except ValueError:
        found = b""
    if not SHORTEST_DUID <= len(found) <= LONGEST_DUID or any(char.isspace() for char in plain):
        raise ValueError(
            f"not a DUID: {SHORTEST_DUID} to {LONGEST_DUID} bytes in hexadecimal digits (00:03:00:01:…)"
        )
    return found
