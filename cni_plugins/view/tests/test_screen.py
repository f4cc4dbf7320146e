from cni_plugins.steps import registry
from cni_plugins.steps.step import Step
from cni_plugins.view import screen


def test_passive_steps_are_those_that_check_nothing() -> None:
    found = {kind.value for kind in registry.Kind if registry.load(kind).check is Step.check}
    assert found == screen.PASSIVE
