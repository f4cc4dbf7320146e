"""An attachment under network policy. What it takes is imported when it is done: hardly any network has
policy, and a call without service pays for each module.
"""

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step


@step
class PolicyEndpoint(Step):
    """The attachment's addresses are judged. Made before the container's link is up, so that no packet comes
    before its policy. `link` is the host's interface that routes to them, `port` what their frames come in
    by; with `bridged` that is a port of the bridge `link`. With `inside` the host does not see its packets:
    they are judged in the container's namespace, whatever addresses they have.
    """

    default: str
    ips: tuple[Address, ...]
    groups: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    link: str
    port: str
    bridged: bool
    inside: bool = False

    def apply(self, context: Context) -> None:
        from cni_plugins.steps import policy_endpoints

        policy_endpoints.join(self, context)

    def restore(self, context: Context) -> None:
        from cni_plugins.steps import policy_endpoints

        if policy_endpoints.problem(self, context):
            policy_endpoints.join(self, context)
            policy_endpoints.restore(context)

    def undo(self, context: Context) -> None:
        from cni_plugins.steps import policy_endpoints

        policy_endpoints.leave(self, context)

    def check(self, context: Context) -> None:
        """CniError 999 when what this attachment may do is not judged as it was."""
        from cni_plugins.steps import policy_endpoints

        problem = policy_endpoints.problem(self, context)
        if problem:
            raise CniError(Code.INTERNAL, problem, "mesokit policy apply, or mesokit reload, makes it again")

    @classmethod
    def collect(cls, context: Context) -> None:
        """Endpoints of the network that no attachment stands behind."""
        if not (context.call.roots.run / "policy").exists():
            return
        from cni_plugins.steps import policy_endpoints

        policy_endpoints.collect(context)


@step
class PolicyChange(Step):
    """Another endpoint in the place of `before`: other addresses, groups or labels, in one transaction. In a
    record only while an update is at work; undone, `before` is judged again.
    """

    before: PolicyEndpoint
    after: PolicyEndpoint

    def apply(self, context: Context) -> None:
        self.after.apply(context)

    def undo(self, context: Context) -> None:
        self.before.apply(context)
