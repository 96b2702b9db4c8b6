"""Tokens that only the server can write."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmimage.server.signing import Signer

SIGNER = Signer(b"secret")
relaxed = settings(deadline=None)  # other work on the machine must not fail a test


def test_what_is_sealed_is_read_again():
    token = SIGNER.seal("put", {"id": "a", "n": "ä.png"}, 60)
    found = SIGNER.unseal("put", token)
    assert (found["id"], found["n"]) == ("a", "ä.png")
    assert token.isascii()
    assert "/" not in token
    assert "?" not in token


def test_kind_time_and_key_are_part_of_it():
    token = SIGNER.seal("put", {}, 60)
    assert SIGNER.unseal("parts", token) is None
    assert SIGNER.unseal("put", SIGNER.seal("put", {}, -2)) is None
    assert Signer(b"another").unseal("put", token) is None
    assert Signer(b"secret").unseal("put", token) is not None


def test_content_cannot_pass_for_another_kind():
    token = SIGNER.seal("put", {"k": "cdn", "exp": 10**12}, 60)
    assert SIGNER.unseal("cdn", token) is None


@relaxed
@given(st.text())
def test_no_text_is_a_token(text):
    assert SIGNER.unseal("put", text) is None


@relaxed
@given(st.data())
def test_one_changed_character_breaks_it(data):
    token = SIGNER.seal("put", {"id": "abc"}, 60)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    assert SIGNER.unseal("put", token[:at] + changed + token[at + 1 :]) is None


def test_the_webhook_key_comes_from_the_secret():
    assert Signer(b"secret").jwks == SIGNER.jwks
    assert Signer(b"another").jwks != SIGNER.jwks
    assert SIGNER.sign_webhook(b"x") == Signer(b"secret").sign_webhook(b"x")
    assert len(bytes.fromhex(SIGNER.sign_webhook(b"x"))) == 64


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "\0.\0", "ä.ö"])
def test_odd_texts(text):
    assert SIGNER.unseal("put", text) is None
