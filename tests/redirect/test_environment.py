"""The environment of a child: our server, our key, and nothing that leads around them."""

import os
import shlex
import subprocess
import sys

import pytest

from glmimage.redirect.environment import (
    PRELOAD,
    Target,
    child_environment,
    client_variables,
    outer_proxy,
    write_bundle,
)


@pytest.fixture
def target(tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("CA\n")
    return Target("127.0.0.1:8443", "id:secret", ca, tmp_path / "bundle.pem")


def test_run_and_queue_are_told_apart_by_prefix(target):
    variables = client_variables(target, {})
    assert variables == {
        "FAL_KEY": "id:secret",
        "FAL_RUN_HOST": "127.0.0.1:8443/run",
        "FAL_QUEUE_RUN_HOST": "127.0.0.1:8443/queue",
        "SSL_CERT_FILE": str(target.bundle),
        "NODE_EXTRA_CA_CERTS": str(target.ca),
    }


def test_what_node_was_told_to_trust_is_kept(target):
    variables = client_variables(target, {"NODE_EXTRA_CA_CERTS": "/some.pem"})
    assert variables["NODE_EXTRA_CA_CERTS"] == str(target.bundle)


def test_credentials_of_the_hosted_service_are_left_behind(target):
    inherited = {
        "FAL_KEY": "public:key",
        "FAL_KEY_ID": "public",
        "FAL_KEY_SECRET": "key",
        "FAL_FORCE_AUTH_BY_USER": "1",
        "PATH": "/bin",
    }
    environment = child_environment(inherited, target, 5000)
    assert environment["FAL_KEY"] == "id:secret"
    assert environment["PATH"] == "/bin"
    assert not any("public" in value for value in environment.values())
    assert "FAL_FORCE_AUTH_BY_USER" not in environment


def test_every_reader_of_proxies_and_certificates_is_told(target):
    environment = child_environment({"https_proxy": "http://corporate:1"}, target, 5000)
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        assert environment[name] == "http://127.0.0.1:5000"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert environment[name] == str(target.bundle)


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ("", []),
        ("*", []),
        ("internal, 10.0.0.0/8", ["internal", "10.0.0.0/8"]),
        ("fal.run,.fal.ai,*.fal.media,queue.falrun.com:443,.run,ai,internal", ["internal"]),
        ("localhost,127.0.0.1,a", ["a"]),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_exception_leads_around_the_proxy(target, name, before, kept):
    environment = child_environment({name: before}, target, 5000)
    expected = ",".join(["127.0.0.1", "localhost", "::1", *kept])
    assert (environment["NO_PROXY"], environment["no_proxy"]) == (expected, expected)


def test_node_keeps_its_options(target):
    environment = child_environment({"NODE_OPTIONS": "--max-old-space-size=100"}, target, 5000)
    assert shlex.split(environment["NODE_OPTIONS"]) == [
        "--require",
        str(PRELOAD),
        "--max-old-space-size=100",
    ]
    assert PRELOAD.is_file()


@pytest.mark.parametrize(
    ("inherited", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "http://b:1"}, "http://a:1"),
        ({"all_proxy": "http://b:1"}, "http://b:1"),
        ({"HTTP_PROXY": "http://c:1"}, None),
    ],
)
def test_the_way_outside(inherited, proxy):
    assert outer_proxy(inherited) == proxy


def test_the_bundle_keeps_what_was_trusted_and_does_not_grow(target, tmp_path):
    trusted = tmp_path / "corporate.pem"
    trusted.write_text("CORPORATE\n")
    write_bundle(target, {"SSL_CERT_FILE": str(trusted), "CURL_CA_BUNDLE": str(tmp_path / "no")})
    first = target.bundle.read_text()
    assert first.startswith("CA\n")
    assert first.count("CORPORATE") == 1
    write_bundle(target, {"SSL_CERT_FILE": str(target.bundle), "REQUESTS_CA_BUNDLE": str(trusted)})
    assert target.bundle.read_text() == first


def test_python_goes_to_our_server_with_the_key(target):
    """Ask the real client's own module, in a process with that environment, where it would go."""
    environment = child_environment(os.environ, target, 5000)
    script = (
        "import os; del os.environ['SSL_CERT_FILE']\n"
        "import fal_client.client as c\n"
        "from fal_client.auth import fetch_auth_credentials\n"
        "print(c.RUN_URL_FORMAT, c.QUEUE_URL_FORMAT, fetch_auth_credentials().header_value)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        "https://127.0.0.1:8443/run/",
        "https://127.0.0.1:8443/queue/",
        "Key",
        "id:secret",
    ]
