"""firewalld: a container's addresses as sources of one of its zones, over the system bus.

Sources that are added this way last until firewalld reloads; `mesokit reload` adds them again.
Source: firewalld.dbus(5), org.fedoraproject.FirewallD1.zone.
"""

from cni_plugins.kernel.dbus import Bus, BusError, Method, bus_method
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import Ip

_NAME, _OBJECT = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"
_ZONE = f"{_NAME}.zone"
_DONE = ("ALREADY_ENABLED", "ZONE_ALREADY_SET")
_GONE = ("UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE")


def _runs(bus: Bus) -> bool:
    return bus.call(bus_method("NameHasOwner"), _NAME) is True


def running(deadline: Deadline, address: str) -> bool:
    """Whether firewalld is on the system bus (`address`: DBUS_SYSTEM_BUS_ADDRESS, "" for its usual place)."""
    try:
        with Bus(deadline, address) as bus:
            return _runs(bus)
    except BusError:
        return False


def _source(ip: Ip) -> str:
    return f"{ip}/{ip.max_prefixlen}"


def _ask(bus: Bus, method: str, zone: str, ip: Ip, fine: tuple[str, ...]) -> str | bool:
    try:
        return bus.call(Method(_NAME, _OBJECT, _ZONE, method), zone, _source(ip))
    except BusError as error:
        if str(error).startswith(fine):
            return True
        raise


def add_sources(deadline: Deadline, address: str, zone: str, addresses: list[Ip]) -> None:
    """Make `addresses` sources of `zone`. CniError 999."""
    try:
        with Bus(deadline, address) as bus:
            for ip in addresses:
                _ask(bus, "addSource", zone, ip, _DONE)
    except BusError as error:
        raise CniError(
            Code.INTERNAL,
            f"firewalld does not take the container's address into its zone {zone!r}",
            f"{error.name} {error}".strip(),
        ) from error


def remove_sources(deadline: Deadline, address: str, zone: str, addresses: list[Ip]) -> None:
    """Undo `add_sources`; idempotent: without firewalld there are no sources. CniError 999."""
    try:
        with Bus(deadline, address) as bus:
            if _runs(bus):
                for ip in addresses:
                    _ask(bus, "removeSource", zone, ip, _GONE)
    except BusError as error:
        if error.name:
            raise CniError(
                Code.INTERNAL,
                f"firewalld does not give up a source of its zone {zone!r}",
                f"{error.name} {error}",
            ) from error


def has_sources(deadline: Deadline, address: str, zone: str, addresses: list[Ip]) -> bool:
    try:
        with Bus(deadline, address) as bus:
            return all(_ask(bus, "querySource", zone, ip, ()) is True for ip in addresses)
    except BusError:
        return False
