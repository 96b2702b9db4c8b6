"""Until when a file lives and who may read it."""

import pytest

from glmimage.files.lifecycle import expiry_and_acl, may_read


@pytest.mark.parametrize(
    ("lifecycle", "default_s", "expires"),
    [
        (None, 60.0, 1060.0),
        (None, 0.0, None),
        ({}, 60.0, 1060.0),
        ({"expiration_duration_seconds": 5}, 60.0, 1005.0),
        ({"expiration_duration_seconds": 0}, 60.0, None),
        ({"expiration_duration_seconds": None}, 60.0, None),
        ({"initial_acl": {"default": "hide"}}, 60.0, 1060.0),
    ],
)
def test_expiry(lifecycle, default_s, expires):
    assert expiry_and_acl(lifecycle, default_s, 1000.0)[0] == expires


def test_acl_is_passed_on():
    acl = {"default": "hide", "rules": []}
    assert expiry_and_acl({"initial_acl": acl}, 1.0, 0.0)[1] == acl
    assert expiry_and_acl({}, 1.0, 0.0)[1] is None


RULES = [{"user": "bob", "decision": "allow"}, {"user": "eve", "decision": "forbid"}]


@pytest.mark.parametrize(
    ("acl", "owner", "users", "decision"),
    [
        (None, None, (), "allow"),
        ({}, "me", (), "allow"),
        ({"default": "hide"}, "me", (), "hide"),
        ({"default": "hide"}, None, (), "hide"),
        ({"default": "hide"}, "me", ("me", "name"), "allow"),
        ({"default": "forbid"}, "me", ("other", "name"), "forbid"),
        ({"default": "hide", "rules": RULES}, "me", ("id", "bob"), "allow"),
        ({"default": "allow", "rules": RULES}, "me", ("eve", "x"), "forbid"),
        ({"rules": RULES}, "me", ("alice", "x"), "allow"),
        (
            {"default": "forbid", "rules": [{"user": "me", "decision": "hide"}]},
            "me",
            ("me",),
            "allow",
        ),
    ],
)
def test_who_may_read(acl, owner, users, decision):
    assert may_read(acl, owner, users) == decision
