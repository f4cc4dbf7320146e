"""Events with text that is not UTF-8: what of them can be used.

Attributes of agents, messages of executors and labels of other frameworks come as somebody wrote them. What
is text is kept, and one item of a list never costs the others.
"""

import logging
import re
from collections.abc import Iterable

from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk import calls
from executor.framework.sdk.calls import Call
from executor.protocol.encoding import Encoding

log = logging.getLogger(__name__)

Event = scheduler_pb2.Event

REFUSE = 3600.0
"""Seconds for which an offer that cannot be read is not wanted again."""

_OFFER = re.compile(r"offers\.offers\[(\d+)\]\.(\w+)")
_INVERSE = re.compile(r"inverse_offers\.inverse_offers\[(\d+)\]\.")
_OF_STATUS = re.compile(r"update\.status\.(task_id|agent_id)\.")


def sound(
    event: Event, damaged: Iterable[str], record: bytes, encoding: Encoding
) -> tuple[Event | None, Call | None]:
    """The event (repaired, see protocol/repair.py) without the items that cannot be used, None if nothing is
    left of it, and what is to be said about those: offers are declined; an update of a task whose id is no
    text, so none of ours, is acknowledged, else it would come for ever.
    """
    fields = ", ".join(list(damaged)[:5])
    log.warning("an event %s has fields that are not UTF-8: %s", Event.Type.Name(event.type), fields)
    if event.type == Event.OFFERS:
        return _offers(event, damaged)
    if event.type == Event.INVERSE_OFFERS:
        bad = {int(match[1]) for path in damaged if (match := _INVERSE.match(path))}
        for number in sorted(bad, reverse=True):
            del event.inverse_offers.inverse_offers[number]
        return (event if event.inverse_offers.inverse_offers else None), None
    if event.type == Event.UPDATE and any(_OF_STATUS.match(path) for path in damaged):
        if encoding is Encoding.JSON or not event.update.status.uuid:
            return None, None
        return None, calls.acknowledge(Event.FromString(record).update.status)
    return event, None


def _offers(event: Event, damaged: Iterable[str]) -> tuple[Event | None, Call | None]:
    found: dict[int, set[str]] = {}
    for path in damaged:
        if match := _OFFER.match(path):
            found.setdefault(int(match[1]), set()).add(match[2])
    listed = event.offers.offers
    ids = [listed[number].id.value for number, fields in found.items() if "id" not in fields]
    for number in sorted(found, reverse=True):
        log.warning("an offer of %s cannot be read and is declined", listed[number].hostname)
        del listed[number]
    return (event if listed else None), (calls.decline(ids, REFUSE) if ids else None)
