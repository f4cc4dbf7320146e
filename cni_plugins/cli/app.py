"""`mesokit app`: deploy and look after apps, over the framework's API."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import requests

from cni_plugins.cli import look
from cni_plugins.cli.app_api import Api, brief, segment
from cni_plugins.cli.table import fitted
from cni_plugins.spec.text import printable

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the API's answer as JSON.")
_NAME = click.argument("name")


@click.group("app")
@click.option(
    "--api",
    metavar="URL",
    envvar="MESOKIT_FRAMEWORK",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="Where the framework answers (MESOKIT_FRAMEWORK).",
)
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="Its token.")
@click.option(
    "--ca",
    envvar="MESOKIT_FRAMEWORK_CA",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With https://: the authority to trust, instead of this host's (PEM; MESOKIT_FRAMEWORK_CA).",
)
@click.pass_context
def command(ctx: click.Context, api: str, token_file: Path | None, ca: Path | None) -> None:
    """Deploy apps on a mesokit framework, and see what becomes of them.

    \b
    mesokit app deploy task.json --wait     the talk's form, or the richer one ("version": 1)
    mesokit app ls
    mesokit app why web                     why do its instances not start?
    """
    try:
        token = token_file.read_text().strip() if token_file is not None else ""
    except OSError as error:
        raise click.ClickException(f"--token-file {token_file}: {error.strerror}") from None
    base = api if "://" in api else f"http://{api}"
    scheme, _, rest = base.partition("://")
    if scheme not in ("http", "https") or not rest.strip("/"):
        raise click.BadParameter(f"{api!r} is not http://HOST:PORT or https://HOST:PORT", param_hint="--api")
    ctx.obj = Api(base.rstrip("/"), token, ca)


@command.command("deploy", short_help="Deploy the apps of FILE.")
@click.argument("file", type=click.File("rb"))
@click.option("--force", is_flag=True, help="Also while another deployment of the app is under way.")
@click.option(
    "--wait", is_flag=True, help="Until it is done; exit 1 if it is paused, fails or is rolled back."
)
@_AS_JSON
@click.pass_obj
def deploy(api: Api, file: Any, force: bool, wait: bool, as_json: bool) -> None:
    """Deploy the app or apps of FILE ("-" for standard input), new or changed.

    \b
    mesokit app deploy task.json --wait
    mesokit app deploy - --force < web.json     though another deployment is under way
    """
    body = file.read()
    try:
        answer = api.told("PUT", f"/v1/api/app{'?force=true' * force}", body)
    except click.ClickException as error:
        # The framework has seen no file: what is wrong in it is told by its name here.
        text = re.sub("^the body: ", f"{file.name}: ", error.message, flags=re.MULTILINE)
        raise click.ClickException(text) from None
    click.echo(json.dumps(answer) if as_json else answer["message"])
    if wait:
        sys.exit(max(_follow(api, item["app"], item["deployment"]) for item in answer["deployments"]))


@command.command("update", short_help="The same as deploy.")
@click.argument("file", type=click.File("rb"))
@click.option("--force", is_flag=True, help="Also while another deployment of the app is under way.")
@click.option("--wait", is_flag=True, help="Until it is done.")
@_AS_JSON
@click.pass_context
def update(ctx: click.Context, /, **options: Any) -> None:
    """The same as deploy.

    \b
    mesokit app update web.json --wait
    """
    ctx.invoke(deploy, **options)


def _follow(api: Api, name: str, deployment: str) -> int:
    last = ""
    while True:
        found = api.told("GET", f"/v1/apps/{segment(name)}")
        state = found["deployment"]
        line = f"{name}: {state['status']}, {found['ready']} of {found['instances']} ready"
        if line != last:
            click.echo(line, err=True)
            last = line
        if state["id"] != deployment:
            click.echo(f"{name}: another deployment took its place", err=True)
            return 1
        if state["status"] == "done":
            return 1 if state["message"] else 0
        if state["status"] in ("paused", "failed"):
            click.echo(printable(f"{name}: {state['message']}"), err=True)
            return 1
        time.sleep(0.3)


@command.command("ls", short_help="Every app in a line.")
@_AS_JSON
@click.pass_obj
def ls(api: Api, as_json: bool) -> None:
    """Every app in a line.

    \b
    mesokit app ls
    mesokit app ls --json | jq '.[] | select(.ready < .instances).name'
    """
    apps = api.told("GET", "/v1/apps")
    if as_json:
        click.echo(json.dumps(apps))
        return
    rows = [("NAME", "KIND", "READY", "DEPLOYMENT", "VERSION", "")]
    rows += [
        (
            item["name"],
            item["kind"],
            f"{item['ready']}/{item['instances']}",
            item["deployment"]["status"],
            item["version"],
            item["deployment"]["message"] or "",
        )
        for item in apps
    ]
    click.echo("\n".join(fitted(rows, look.width())) if apps else "no app")


@command.command("inspect", short_help="All of one app, as JSON.")
@_NAME
@click.pass_obj
def inspect(api: Api, name: str) -> None:
    """All of one app, as JSON.

    \b
    mesokit app inspect web | jq .deployment
    """
    click.echo(json.dumps(api.told("GET", f"/v1/apps/{segment(name)}"), indent=2))


@command.command("instances", short_help="The instances of one app, and the last that ended.")
@_NAME
@_AS_JSON
@click.pass_obj
def instances(api: Api, name: str, as_json: bool) -> None:
    """The instances of one app, and the last that ended.

    \b
    mesokit app instances web
    """
    found = api.told("GET", f"/v1/apps/{segment(name)}")
    past = api.told("GET", f"/v1/apps/{segment(name)}/history")
    if as_json:
        click.echo(json.dumps({"live": found["live"], "ended": past}))
        return
    rows: list[tuple[str, ...]] = [("INSTANCE", "STATE", "HOST", "ADDRESSES", "PORTS", "SINCE", "")]
    rows += [_instance_row(item) for item in [*found["live"], *past[:10]]]
    click.echo("\n".join(fitted(rows, look.width())))


def _instance_row(item: dict[str, Any]) -> tuple[str, ...]:
    since = item["ended"] or item["launched"]
    return (
        item["id"],
        item["state"] + ("" if item["healthy"] else ", unhealthy"),
        item["host"],
        ",".join(item["addresses"]),
        ",".join(f"{name}:{port}" for name, port in item["ports"].items()),
        time.strftime("%H:%M:%S", time.localtime(since)),
        item["killed_for"] or item["message"] or "",
    )


@command.command("scale", short_help="Run NUMBER instances of an app.")
@_NAME
@click.argument("number", type=click.IntRange(0))
@click.option("--wait", is_flag=True, help="Until it is done.")
@click.pass_obj
def scale(api: Api, name: str, number: int, wait: bool) -> None:
    """Run NUMBER instances of an app.

    \b
    mesokit app scale web 5 --wait
    mesokit app scale web 0         none, and the app stays
    """
    answer = api.told("POST", f"/v1/apps/{segment(name)}/scale", json.dumps({"instances": number}))
    if wait:
        sys.exit(_follow(api, name, answer["deployment"]))


@command.command("restart", short_help="Replace every instance, as an update does.")
@_NAME
@click.option("--wait", is_flag=True, help="Until it is done.")
@click.pass_obj
def restart(api: Api, name: str, wait: bool) -> None:
    """Replace every instance, as an update does.

    \b
    mesokit app restart web --wait
    """
    answer = api.told("POST", f"/v1/apps/{segment(name)}/restart")
    if wait:
        sys.exit(_follow(api, name, answer["deployment"]))


def _steer(what: str, about: str) -> None:
    @command.command(what, help=f"{about}\n\n\b\nmesokit app {what} web", short_help=about)
    @_NAME
    @click.pass_obj
    def steer(api: Api, name: str) -> None:
        answer = api.told("POST", f"/v1/apps/{segment(name)}/deployment/{what}")
        click.echo(f"{name}: {answer['status']}")


_steer("approve", "Go on from the canary to the rest.")
_steer("pause", "Hold a deployment where it is.")
_steer("resume", "Go on with a paused or failed deployment.")
_steer("rollback", "Back to the version before, whatever runs of it kept.")


@command.command("kill", short_help="Kill one instance, or delete an app.")
@click.argument("what", metavar="APP|INSTANCE")
@click.option("--scale", "smaller", is_flag=True, help="And make the app smaller by one.")
@click.option("--destroy-volumes", "destroy", is_flag=True, help="With an app: its volumes too.")
@click.option("--yes", is_flag=True, help="Do not ask before a whole app is deleted.")
@click.pass_obj
def kill(api: Api, what: str, smaller: bool, destroy: bool, yes: bool) -> None:
    """Kill one instance (another takes its place), or delete a whole app.

    \b
    mesokit app kill web.0123456789abcdef           another takes its place
    mesokit app kill web.0123456789abcdef --scale   and none does
    mesokit app kill web --yes                      the app, and all that runs of it
    """
    live = {item["id"] for item in api.told("GET", "/v1/instances")}
    if what in live:
        api.ask("DELETE", f"/v1/instances/{segment(what)}{'?scale=true' * smaller}")
        return
    if not yes and sys.stdin.isatty():
        more = " and what is in its volumes" if destroy else ""
        click.confirm(f"delete app {what}, all that runs of it{more}?", abort=True)
    answer = api.told("DELETE", f"/v1/apps/{segment(what)}{'?destroy_volumes=true' * destroy}")
    click.echo(f"deleting {what}: {answer['instances']} instances")


@command.command("volumes", short_help="Persistent volumes, and the instances that use them.")
@click.option("--destroy", metavar="ID", help="Destroy the volumes of this line, and what is in them.")
@_AS_JSON
@click.pass_obj
def volumes(api: Api, destroy: str | None, as_json: bool) -> None:
    """Persistent volumes, and the instances that use them.

    \b
    mesokit app volumes
    mesokit app volumes --destroy db.0123456789abcdef
    """
    if destroy is not None:
        answer = api.told("DELETE", f"/v1/volumes/{segment(destroy)}")
        click.echo(f"destroying {destroy} on {answer['host']} as soon as its agent offers it")
        return
    found = api.told("GET", "/v1/volumes")
    if as_json:
        click.echo(json.dumps(found))
        return
    rows: list[tuple[str, ...]] = [("VOLUMES", "STATE", "HOST", "INSTANCE", "")]
    rows += [
        (
            item["id"],
            item["state"],
            item["host"],
            item["instance"] or "-",
            ", ".join(f"{one['name']} {one['size']:g} MiB" for one in item["volumes"]),
        )
        for item in found
    ]
    click.echo("\n".join(fitted(rows, look.width())))


@command.command("why", short_help="Why instances of an app do not start.")
@_NAME
@_AS_JSON
@click.pass_obj
def why(api: Api, name: str, as_json: bool) -> None:
    """Why instances of an app do not start.

    \b
    mesokit app why web
    """
    found = api.told("GET", f"/v1/apps/{segment(name)}/why")
    if as_json:
        click.echo(json.dumps(found))
        return
    told = f"{found['missing']} missing: {found['why']}" if found["missing"] else found["why"]
    click.echo(printable(told))
    rows = [("OFFERS", "REASON", "LAST SEEN")]
    rows += [(str(item["offers"]), item["reason"], item["example"]) for item in found["reasons"]]
    if found["missing"] and found["reasons"]:
        click.echo("\n".join(fitted(rows, look.width())))


@command.command("events", short_help="What happens, as it happens.")
@click.option("--since", type=click.IntRange(0), help="The number of the last event that was seen.")
@_AS_JSON
@click.pass_obj
def events(api: Api, since: int | None, as_json: bool) -> None:
    """What happens, as it happens.

    \b
    mesokit app events --since 0    and all that is remembered
    """
    path = "/v1/events" + (f"?since={since}" if since is not None else "")
    for number, document in _events(api, api.ask("GET", path, stream=True)):
        if as_json:
            click.echo(json.dumps({"number": number, **document}))
            continue
        when = time.strftime("%H:%M:%S", time.localtime(document.get("time", 0)))
        rest = " ".join(
            str(value)
            for key, value in document.items()
            if key not in ("time", "kind") and value not in ("", None)
        )
        click.echo(printable(f"{number:>6} {when} {document.get('kind', 'behind')} {rest}"))


def _events(api: Api, response: requests.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    """Events and their numbers, for ever. Raises click.ClickException where the stream ends."""
    number, why = 0, "it ended the stream"
    try:
        for line in response.iter_lines(chunk_size=1):
            key, _, value = line.decode("utf-8", "replace").partition(": ")
            if key == "id":
                number = int(value)
            elif key == "data":
                yield number, json.loads(value)
    except requests.RequestException as error:
        why = brief(error)
    except ValueError:
        why = "that is no event"
    since = f"; go on with: mesokit app events --since {number}" if number else ""
    raise click.ClickException(f"{api.base} tells no more events: {why}{since}")


@command.command("logs", short_help="Show what an instance printed.")
@click.argument("what", metavar="INSTANCE|APP")
@click.option("--stderr", "errors", is_flag=True, help="Standard error instead of output.")
@click.option("--follow", "-f", is_flag=True, help="Go on as more comes.")
@click.pass_obj
def logs(api: Api, what: str, errors: bool, follow: bool) -> None:
    """What an instance printed, read from its agent through the framework. The name of an app will do where
    it has one instance.

    \b
    mesokit app logs web --follow
    mesokit app logs web.0123456789abcdef --stderr
    """
    instance = _only_instance(api, what)
    offset = 0
    name = "stderr" if errors else "stdout"
    while True:
        answer = api.told("GET", f"/v1/instances/{segment(instance)}/logs/{name}?offset={offset}")
        data = answer["data"]
        if data:
            sys.stdout.write(data)
            sys.stdout.flush()
            offset = answer["offset"]
        elif not follow:
            return
        else:
            time.sleep(0.5)


def _only_instance(api: Api, what: str) -> str:
    """The instance of that name, or that an app has alone. Raises click.ClickException."""
    if what not in {item["name"] for item in api.told("GET", "/v1/apps")}:
        return what
    live = [str(item["id"]) for item in api.told("GET", f"/v1/apps/{segment(what)}")["live"]]
    if len(live) == 1:
        return live[0]
    if live:
        raise click.ClickException(f"{what} has {len(live)} instances, name one: {' '.join(live)}")
    past = [str(item["id"]) for item in api.told("GET", f"/v1/apps/{segment(what)}/history")]
    if not past:
        raise click.ClickException(f"{what} has had no instance yet: mesokit app why {what}")
    return past[0]
