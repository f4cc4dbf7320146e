"""A pair whose namespace ends goes by itself, also between a look-up of an undo and its change."""

from dataclasses import replace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.steps.change import PortFlags
from cni_plugins.steps.link_settings import LinkSettings, Settings

MAC = "02:00:00:00:00:01"
STEPS = [
    LinkSettings("veth1", Settings(mtu=1300), Settings(mtu=1500), host_mac=MAC),
    PortFlags("veth1", MAC, (("ISOLATED", True),), (("ISOLATED", False),)),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_what_went_meanwhile_needs_no_undo(namespace: Namespace, mocker: MockerFixture, step: Any) -> None:
    with Netlink(namespace, after(10)) as netlink:
        there = links.find(netlink, "lo")
        assert there is not None
        gone = replace(there, name="veth1", index=999_999, mac=MAC, master=7)
        mocker.patch.object(links, "find", return_value=gone)
        context = mocker.Mock(host=netlink)
        step.undo(context)
        with pytest.raises(CniError):
            step.apply(context)
