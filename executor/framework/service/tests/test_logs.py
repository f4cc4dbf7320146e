"""What tasks printed, from agents that ask who reads."""

import asyncio
from dataclasses import replace
from pathlib import Path

from executor.framework.sdk.credentials import Credentials, basic
from executor.framework.service.tests.setup import QUICK, until
from executor.framework.service.tests.test_api import WEB, served


def test_an_agent_that_asks_who_reads_is_told_with_a_credential_of_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("an old one\n")
    renewed = "a new one"
    asking = replace(QUICK, agent_principal="reader", agent_secret=renewed)

    async def ask(credentials: Credentials, until_taken: str = "") -> tuple[int, str]:
        folder = tmp_path / f"state{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        async with served(folder, options=asking, agent_credentials=credentials) as (_, client):
            await client.ask("POST", "/v1/apps", {**WEB, "instances": 1})
            assert client.site is not None and client.site.framework is not None
            books = client.site.framework.books
            await until(lambda: any(item.state.value == "running" for item in books.instances.values()))
            path = f"/v1/instances/{next(iter(books.instances))}/logs/stdout"
            answer = await client.ask("GET", path)
            if until_taken:
                secret.write_text(until_taken)  # renewed while the framework runs
                answer = await client.ask("GET", path)
            return answer.status_code, str(answer.json().get("message") or answer.json().get("data"))

    status, said = asyncio.run(ask(Credentials()))
    assert status == 502 and said.endswith(
        "answered 401 to GET /state: it asks who reads (--authenticate_http_readonly): start the framework "
        "with --agent-principal and --agent-secret-file"
    )
    status, said = asyncio.run(ask(basic("reader", secret)))
    assert status == 502 and "it does not take the credential of --agent-secret-file" in said
    status, said = asyncio.run(ask(basic("reader", tmp_path / "none")))
    assert status == 502 and "cannot read the credential file" in said
    status, said = asyncio.run(ask(basic("reader", secret), renewed))
    assert status == 200 and "TASK_RUNNING" in said
