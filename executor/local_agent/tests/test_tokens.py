"""Executor tokens."""

from executor.local_agent.tokens import Claims, make_token, read_token

CLAIMS = Claims("F", "E", "C")


def test_claims_survive() -> None:
    assert read_token(make_token(CLAIMS, b"key"), b"key") == CLAIMS


def test_token_is_a_jwt_signed_with_hs256() -> None:
    header, _, _ = make_token(CLAIMS, b"key").split(".")
    assert header == "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"


def test_forgeries_are_refused() -> None:
    token = make_token(CLAIMS, b"key")
    header, payload, signature = token.split(".")
    other = make_token(Claims("F", "E2", "C"), b"key").split(".")[1]
    forged = (
        make_token(CLAIMS, b"another"),
        f"{header}.{other}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        "",
        "é",
    )
    assert [read_token(text, b"key") for text in forged] == [None] * len(forged)
