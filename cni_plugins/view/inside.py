"""The network namespace of an attachment, opened by its path and used only if it is the very one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace, open_namespace
from cni_plugins.view.attachments import Attachment


def opened(attachment: Attachment, host: Namespace) -> Namespace | None:
    """The attachment's namespace, None when it is gone or its path leads to another. CniError 8."""
    found = open_namespace(attachment.netns) if attachment.netns else None
    if found is None:
        return None
    wanted = attachment.netns_id
    if found.same(host) or (wanted and (found.device, found.inode) != wanted[:2]):
        os.close(found.fd)
        return None
    return found


@contextmanager
def inside_of(attachment: Attachment, host: Namespace) -> Iterator[Namespace]:
    """The attachment's namespace, for the block. CniError 8 when it is gone."""
    found = opened(attachment, host)
    if found is None:
        raise CniError(
            Code.INVALID_NETNS,
            f"the network namespace of {attachment.container_id} is gone: {attachment.netns}",
        )
    try:
        yield found
    finally:
        os.close(found.fd)
