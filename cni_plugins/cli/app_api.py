"""The framework's API, as `mesokit app` asks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import requests

from cni_plugins.spec.text import printable


def segment(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="")


@dataclass(frozen=True, slots=True)
class Api:
    """Where the framework is, and the token it wants."""

    base: str
    token: str
    authority: Path | None = None

    def ask(self, method: str, path: str, body: Any = None, *, stream: bool = False) -> requests.Response:
        """A request, sent on to the leader where that is another instance. Raises click.ClickException."""
        url = self.base + path
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            for _ in range(3):
                # A redirect would lose the token on the way to another host.
                response = requests.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    timeout=(5, None if stream else 60),
                    stream=stream,
                    allow_redirects=False,
                    verify=str(self.authority) if self.authority is not None else True,
                )
                if response.status_code != requests.codes.temporary_redirect:
                    break
                url = response.headers["Location"]
        except requests.RequestException as error:
            raise click.ClickException(
                f"{self.base} does not answer: {brief(error)}: say with --api or MESOKIT_FRAMEWORK where the "
                "framework does"
            ) from None
        if response.status_code >= 400:
            raise click.ClickException(_message(response))
        return response

    def told(self, method: str, path: str, body: Any = None) -> Any:
        """What it answers, in JSON. Raises click.ClickException."""
        try:
            return self.ask(method, path, body).json()
        except ValueError:
            raise click.ClickException(
                f"{self.base} answers {path} with something that is not JSON: it is no framework of ours; "
                "say with --api or MESOKIT_FRAMEWORK where that is"
            ) from None


def brief(error: Exception) -> str:
    """What is at the bottom of an error, in a few words."""
    cause: BaseException = error
    while cause.__context__ is not None or cause.__cause__ is not None:
        following = cause.__cause__ or cause.__context__
        assert following is not None
        cause = following
    return getattr(cause, "strerror", None) or str(cause)


def _message(response: requests.Response) -> str:
    try:
        document = response.json()
        return printable(str(document["message"]))
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {printable(response.reason or '')}"
