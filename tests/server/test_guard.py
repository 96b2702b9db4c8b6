"""The policy is what the settings say."""

import pytest

from glmimage.config import Settings
from glmimage.errors import InvalidSettings
from glmimage.policy import AddressRefused
from glmimage.server.guard import policy_from_settings


def policy(tmp_path, **options):
    return policy_from_settings(Settings(data_dir=tmp_path, **options))


def test_by_default_only_the_terms_are_read(tmp_path):
    found = policy(tmp_path)
    assert found.check_prompt("a nude woman").kind == "sexual"
    assert not found.moderates
    assert found.reference_limits.max_bytes == 50 * 1024**2


def test_the_operators_terms_replace_the_list_that_ships(tmp_path):
    (tmp_path / "ours.txt").write_text("[brand]\nacme\n")
    found = policy(tmp_path, terms_file=tmp_path / "ours.txt")
    assert found.check_prompt("Acme").kind == "brand"
    assert found.check_prompt("a nude woman") is None


def test_endpoints_are_built(tmp_path):
    found = policy(
        tmp_path,
        moderation_url="http://127.0.0.1:1/v1",
        moderation_api_key="sk-secret",
        expansion_url="http://127.0.0.1:1/v1",
        expansion_model="qwen",
        max_reference_bytes=1000,
    )
    assert found.moderates
    assert found.reference_limits.max_bytes == 1000
    assert "sk-secret" not in repr(found)


@pytest.mark.parametrize(
    "options",
    [
        {"expansion_url": "http://127.0.0.1/v1"},
        {"moderation_url": "127.0.0.1"},
        {"terms_file": "/nowhere/terms.txt"},
        {"reference_hosts": "10.0.0.0/8, a b"},
        {"webhook_hosts": "http://intranet/"},
    ],
)
def test_wrong_settings_are_refused_at_the_start(tmp_path, options):
    with pytest.raises(InvalidSettings):
        policy(tmp_path, **options)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_references_and_webhooks_have_their_own_hosts(tmp_path):
    found = policy(tmp_path, reference_hosts="10.0.0.0/8, [::1]:80", webhook_hosts="127.0.0.1")
    assert await found.reference_guard.addresses("10.1.2.3", 80) == ["10.1.2.3"]
    assert await found.reference_guard.addresses("::1", 80) == ["::1"]
    assert await found.webhook_guard.addresses("127.0.0.1", 9000) == ["127.0.0.1"]
    with pytest.raises(AddressRefused):
        await found.reference_guard.addresses("127.0.0.1", 80)
    with pytest.raises(AddressRefused):
        await found.webhook_guard.addresses("10.1.2.3", 80)


def test_keys_do_not_show_in_the_settings(tmp_path):
    settings = Settings(data_dir=tmp_path, moderation_api_key="sk-1", expansion_api_key="sk-2")
    assert "sk-1" not in repr(settings)
    assert "sk-2" not in str(settings)
