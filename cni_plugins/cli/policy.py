"""`mesokit policy`: what containers may send to one another, to the host and to the world."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cni_plugins.cli import look
from cni_plugins.cli.policy_odd import suspicions
from cni_plugins.cli.policy_text import (
    as_json_difference,
    as_json_endpoint,
    audited,
    builtin,
    changes,
    few,
    overview,
)
from cni_plugins.cli.root import require_root, told
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.policy.compare import differences
from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.model import Endpoint, Policy
from cni_plugins.policy.read import Refused, read_directory, read_files
from cni_plugins.policy.schema import SCHEMA
from cni_plugins.policy.selection import Members
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.spec.text import printable
from cni_plugins.spec.values import parse_ip
from cni_plugins.steps import policy_flows, policy_kernel, policy_state
from cni_plugins.steps.policy_file import State
from cni_plugins.steps.policy_flows import Flows
from cni_plugins.steps.policy_inside import Inside
from cni_plugins.view.explain import explain_flow
from cni_plugins.view.flow_ends import HOST, WORLD, ExplainError, network_of
from cni_plugins.view.unjudged import Outside, unjudged

_SECONDS = 30.0
_REFUSED = 2
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FROM = click.option(
    "--from",
    "place",
    type=click.Path(path_type=Path),
    help="Another directory than /etc/mesokit/policy.d.",
)


@click.group("policy")
def command() -> None:
    """Say what containers may send to one another, to the host and to the world.

    \b
    mesokit policy check                         are the files of /etc/mesokit/policy.d right?
    mesokit policy apply                         make them hold, under running containers
    mesokit policy show                          who is under policy, and how it is enforced
    mesokit policy explain web-1 db-1 tcp/5432   does it pass, and which rule says so?
    mesokit policy audit                         what policies with `audit: true` would have refused
    mesokit policy schema                        the JSON Schema of a policy file

    A policy file:

    \b
    policies:
      - name: db
        for: {labels: {role: db}}
        ingress:
          - {allow: [tcp/5432], from: [{labels: {role: web}}]}
    """


def _roots() -> Roots:
    return roots_from(os.environ)


def _host() -> Namespace:
    try:
        host = open_namespace(OWN_NETNS)
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error
    if host is None:
        raise click.ClickException(f"cannot open {OWN_NETNS}: is /proc mounted?")
    return host


def _state() -> State:
    try:
        return policy_state.load(_roots(), _host())
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error


def _read(place: Path | None) -> list[Policy]:
    """The policies of a file or directory; those that are refused end the program with 2. A place that was
    named and is not there is refused too: it is no wish to have no policies. But the node's own may be yet to
    come.
    """
    own = policy_state.directory(_roots())
    chosen = place or own
    if place not in {None, own}:
        try:
            chosen.stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            click.echo(f"{printable(str(place))}: {reason}: nothing is read or changed", err=True)
            sys.exit(_REFUSED)
    try:
        # A file in the place of the node's own directory is a mishap, as the service takes it.
        single = place not in {None, own} and chosen.is_file()
        return read_files([chosen]) if single else read_directory(chosen)
    except Refused as error:
        for problem in error.problems:
            click.echo(printable(str(problem)), err=True)
        count = len(error.problems)
        click.echo(f"refused: {count} problem{'' if count == 1 else 's'}, nothing is changed", err=True)
        sys.exit(_REFUSED)


@command.command("check", short_help="Say what is wrong or odd in policy files.")
@click.argument("place", required=False, type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Say what passes otherwise than by the policies of this file or directory.",
)
@_AS_JSON
def check(place: Path | None, against: Path | None, as_json: bool) -> None:
    """Read the policies of PLACE (a file or a directory) and say what is wrong or odd. Needs no root.

    Exit status 2 when they are refused. What is odd (a selector that nobody matches now, egress rules without
    DNS, a port of the node where the container's is judged) is told and is no error.

    With --against, each pair of this node's containers, the host and the world of which PLACE says something
    else than the other policies: what passes by PLACE, and what passed. Nothing is changed. Needs root.

    \b
    mesokit policy check web.yaml      before it is put into /etc/mesokit/policy.d
    mesokit policy check new.d --against /etc/mesokit/policy.d      what would change?
    """
    policies = _read(place)
    others = _read(against) if against is not None else []
    try:
        endpoints: Sequence[Endpoint] = policy_state.load(_roots(), _host()).endpoints
    except CniError as error:
        if against is not None:
            raise click.ClickException(printable(told(error))) from error
        endpoints = ()  # not root's: the files alone
    attached = look.node(look.here(), tasks=False).attachments if endpoints else ()
    odd = suspicions(policies, endpoints, {item.identity: item.ports for item in attached})
    found = list(differences(Compiler(others), Compiler(policies), endpoints)) if against is not None else []
    if as_json:
        answer: dict[str, Any] = {"policies": [item.name for item in policies], "warnings": odd}
        if against is not None:
            answer["changes"] = [as_json_difference(item) for item in found]
        click.echo(json.dumps(answer, indent=2))
        return
    for line in odd:
        click.echo(printable(line), err=True)
    if against is not None:
        for line in changes(found, endpoints) if found else ["nothing that passes or not changes"]:
            click.echo(printable(line))
    click.echo(f"{len(policies)} polic{'y' if len(policies) == 1 else 'ies'}, all right")


@command.command("schema", short_help="Print the JSON Schema of a policy file.")
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a policy file.

    \b
    mesokit policy schema > policy.schema.json
    """
    click.echo(json.dumps(SCHEMA, indent=2))


@command.command("apply", short_help="Make the policy files hold, all or none.")
@_FROM
@_AS_JSON
def apply(place: Path | None, as_json: bool) -> None:
    """Make the policies of /etc/mesokit/policy.d hold, all or none, at one instant.

    Flows that exist are judged too: one that is no longer allowed ends with the change. It may be run at any
    time, beside a node service too, and puts right what somebody flushed. Exit status 2 when a file is
    refused; nothing is changed then.

    What it cannot judge is told: containers outside policy, and flows that others kept from being tracked, of
    which nobody knows who opened them.

    \b
    mesokit policy apply
    """
    require_root()
    roots, began = _roots(), time.monotonic()
    try:
        with policy_state.opened(roots, _host(), after(_SECONDS)) as store:
            # Under the lock: what was read before may not be put in the place of what is newer.
            policies = tuple(_read(place))
            before = len(store.state.policies)
            done = store.update(lambda state: replace(state, policies=policies, read=True))
            mended = store.restore()
            state = store.state
            count = len(state.endpoints)
        took = round((time.monotonic() - began) * 1000, 1)
        unsure = policy_flows.unsure(_host(), state)
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error
    problems = sorted({*done.problems, *mended.problems})
    outside, unjudged_flows = _past_policy(state)
    answer = {
        "policies": len(policies),
        "before": before,
        "endpoints": count,
        "elements": {"added": done.added, "removed": done.removed},
        "profiles": {"new": done.new, "gone": done.dead},
        "restored": mended.restored,
        "problems": problems,
        "unsure": unsure.as_json(),
        "outside": [each.as_json() for each in outside],
        "unjudged": unjudged_flows.as_json(),
        "milliseconds": took,
    }
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(
        f"{len(policies)} policies hold for {count} endpoints: {done.new} profiles made, {done.dead} gone, "
        f"{done.added} elements added, {done.removed} removed, {took} ms"
    )
    if answer["restored"]:
        click.echo(f"{answer['restored']} elements and chains were missing or foreign, and are right again")
    for problem in problems:
        click.echo(printable(f"NOT ENFORCED in {problem}"), err=True)
    for line in (*unsure.sentences, *few(list(map(str, outside))), *unjudged_flows.sentences):
        click.echo(printable(line), err=True)


@command.command("show", short_help="Show who is under policy, and what holds.")
@_AS_JSON
def show(as_json: bool) -> None:
    """Show who is under policy, what holds for them, how it is enforced, and what is not.

    \b
    mesokit policy show
    mesokit policy show --json | jq '.endpoints[] | select(.groups | index("web"))'
    """
    state, host = _state(), _host()
    compiler = Compiler(state.policies, names=state.names)
    try:
        with Nfnetlink(host) as socket:
            held = policy_kernel.held(socket)
        lacking = len(state.bridging.entries(compiler.compile(state.endpoints).entries) - held)
        inside = Inside(host, after(_SECONDS))
        lacking += inside.lacking(compiler, Members(state.endpoints))
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error
    admins = inside.admins(state.endpoints)
    outside = _outside(state)
    if as_json:
        document = {
            "policies": [{"name": item.name, "where": item.where} for item in state.policies],
            "endpoints": [
                as_json_endpoint(item, compiler.assignment(item), admins, state.bridging)
                for item in state.endpoints
            ],
            "outside": [each.as_json() for each in outside],
            "missing": lacking,
            "builtin": builtin(),
        }
        click.echo(json.dumps(document, indent=2))
        return
    for line in overview(state, compiler, lacking, admins, list(map(str, outside))):
        click.echo(printable(line))


def _outside(state: State) -> list[Outside]:
    """The attachments that no policy judges, and why."""
    return unjudged(look.node(look.here(), tasks=False), state)


def _past_policy(state: State) -> tuple[list[Outside], Flows]:
    """The attachments that no policy judges, and what they exchange with others such."""
    outside = _outside(state)
    addresses = {parse_ip(entry.ip) for each in outside for entry in each.item.addresses}
    try:
        return outside, policy_flows.unjudged(_host(), state, addresses)
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error


@command.command("explain", short_help="Say whether a flow passes, and by which rule.")
@click.argument("source")
@click.argument("target")
@click.argument("traffic")
@_AS_JSON
def explain(source: str, target: str, traffic: str, as_json: bool) -> None:
    """Say whether the first packet of a flow from SOURCE to TARGET passes, and why.

    SOURCE and TARGET are addresses, anything that `mesokit inspect` understands, `host` (the node itself),
    `world` (an address that no policy names) or a network such as 10.0.0.0/8, of which each part that
    is treated differently is told. TRAFFIC is such as tcp/80, udp/53, icmp/echo-request. The verdict is read
    from the kernel's own sets. Rules of others that drop the packet, or leave it untracked, are named with
    table, chain and handle. Exit status 1 if it does not pass.

    \b
    mesokit policy explain web-1 db-1 tcp/5432
    mesokit policy explain 203.0.113.7 web-1 tcp/80
    mesokit policy explain web-1 host udp/53
    mesokit policy explain 10.0.0.0/8 web-1 tcp/80
    """
    state = _state()
    try:
        answers = explain_flow(state, _host(), _end(state, source), _end(state, target), traffic)
    except (ExplainError, CniError) as error:
        raise click.ClickException(printable(told(error))) from error
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    else:
        for answer in answers:
            for line in _told(answer, traffic):
                click.echo(printable(line))
    sys.exit(0 if all(answer["allowed"] for answer in answers) else 1)


def _end(state: State, name: str) -> str:
    """An end of a flow as `explain_flow` takes it: an address, or the beginning of the id of a container
    under policy; of any other container its first address, for what policy says of a stranger.
    """
    if name in (HOST, WORLD) or network_of(name) is not None:
        return name
    try:
        address = parse_ip(name)
    except ValueError:
        if any(item.container.startswith(name) for item in state.endpoints if name):
            return name
    else:
        if not any(address in item.addresses for item in state.endpoints):
            for each in _outside(state):
                if any(parse_ip(entry.ip) == address for entry in each.item.addresses):
                    click.echo(printable(f"{each}: {address} is judged as a stranger's"), err=True)
        return str(address)
    node = look.node(look.here())
    found = look.named(node, name)
    if any(item.container == found[0].container_id for item in state.endpoints):
        return found[0].container_id
    addresses = [entry.ip for item in found for entry in item.addresses]
    if not addresses:
        raise ExplainError(f"{name!r} is {found[0].container_id}, which has no address and no policy")
    for each in unjudged(node, state):
        if each.item in found:
            click.echo(printable(str(each)), err=True)
    who = f"{name} is container {found[0].container_id}, which is under no policy"
    click.echo(printable(f"{who}: {addresses[0]} is judged as a stranger's"), err=True)
    return addresses[0]


def _told(answer: dict[str, Any], traffic: str) -> list[str]:
    who = "a rule of others" if answer["refusedBy"] == "others" else f"the {answer['refusedBy']}'s side"
    verdict = "passes" if answer["allowed"] else f"is refused (by {who})"
    lines = [f"{traffic} from {answer['source']} to {answer['target']} {verdict}"]
    for item in answer["reasons"]:
        place = f", {item['where']}" if item["where"] else ""
        lines.append(f"  {item['end']}: {item['says']} by {item['policy']}{place}")
    lines += [f"  others: {item['about']}" for item in answer["others"]]
    lines += [f"  kernel: {step}" for step in answer["kernel"]]
    return lines


@command.command("audit", short_help="Show what policies on trial would have refused.")
@_AS_JSON
def audit(as_json: bool) -> None:
    """Show how many packets policies with `audit: true` would have refused, by who sent or got them.

    What they count is also logged to netfilter log group 5, with the prefix "mesokit audit": 100 at once, and
    50 a second. An address of a line is what `mesokit inspect` takes.

    \b
    mesokit policy audit
    """
    state = _state()
    try:
        found = audited(state, _host())
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error
    for each in _outside(state):
        click.echo(printable(f"{each}: it is not audited"), err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for item in found:
        who = ", ".join(item["containers"])
        click.echo(printable(f"{item['packets']} packets {item['direction']} of {who}: {item['policies']}"))
    if not found:
        click.echo("no policy with audit: true selects a container")
