"""The environment in which a client of the hosted service finds this server instead."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..atomic_file import replace_file
from ..fal_hosts import is_fal_host

PRELOAD = Path(__file__).with_name("preload.cjs")
SERVED_BY = "FAL_SERVED_BY"  # read by the preload

# each replaces what its reader trusts: OpenSSL and httpx, requests, curl
BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# credentials that would be used instead of, or beside, the key we set
OTHER_CREDENTIALS = ("FAL_KEY_ID", "FAL_KEY_SECRET", "FAL_FORCE_AUTH_BY_USER")


@dataclass(frozen=True)
class Target:
    """Say which server clients are led to, with which key, and whom they must trust for it.

    `address` is `host:port` of its https side; `ca` is None when the public ones vouch for it;
    `bundle` is the CA with all that was trusted before.
    """

    address: str
    api_key: str
    ca: Path | None
    bundle: Path


def client_variables(target: Target, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the clients themselves read; enough for inference in Python."""
    return {
        "FAL_KEY": target.api_key,
        "FAL_RUN_HOST": f"{target.address}/run",
        # without it the Python client would put "queue." in front of the address
        "FAL_QUEUE_RUN_HOST": f"{target.address}/queue",
        "SSL_CERT_FILE": str(target.bundle),
        # Node adds to what it trusts; one file only, so what was added before is in the bundle
        "NODE_EXTRA_CA_CERTS": str(
            target.bundle if inherited.get("NODE_EXTRA_CA_CERTS") or not target.ca else target.ca
        ),
    }


def child_environment(
    inherited: Mapping[str, str], target: Target, proxy_port: int
) -> dict[str, str]:
    """Return the whole environment of a child: no request of it reaches the hosted service."""
    variables = {name: value for name, value in inherited.items() if name not in OTHER_CREDENTIALS}
    variables |= client_variables(target, inherited)
    variables |= dict.fromkeys(BUNDLE_VARIABLES, str(target.bundle))
    proxy = f"http://127.0.0.1:{proxy_port}"
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        # some readers look only at one spelling, some prefer the small one
        variables[name] = variables[name.lower()] = proxy
    direct = _direct_hosts(inherited.get("NO_PROXY") or inherited.get("no_proxy") or "")
    variables["NO_PROXY"] = variables["no_proxy"] = ",".join(direct)
    options = inherited.get("NODE_OPTIONS", "")
    path = str(PRELOAD).replace("\\", "\\\\").replace('"', '\\"')
    variables["NODE_OPTIONS"] = f'--require "{path}" {options}'.strip()
    variables[SERVED_BY] = target.address
    return variables


def outer_proxy(inherited: Mapping[str, str]) -> str | None:
    """Return the proxy through which this machine reaches the outside, if one is set."""
    names = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    return next((inherited[name] for name in names if inherited.get(name)), None)


def write_bundle(target: Target, inherited: Mapping[str, str]) -> None:
    """Write one PEM file with the CA and all that was trusted so far."""
    own = [target.ca] if target.ca is not None else []
    files = dict.fromkeys([*own, *_trusted_so_far(target.bundle, inherited)])
    content = b"\n".join(file.read_bytes() for file in files)
    if not target.bundle.is_file() or target.bundle.read_bytes() != content:
        replace_file(target.bundle, content, 0o644)


def _trusted_so_far(bundle: Path, inherited: Mapping[str, str]) -> Iterable[Path]:
    defaults = ssl.get_default_verify_paths()
    named = [inherited.get(name) for name in (*BUNDLE_VARIABLES, "NODE_EXTRA_CA_CERTS")]
    for name in (*named, defaults.openssl_cafile, _certifi()):
        # under `exec` or `env` the bundle itself is what is trusted; it would grow each time
        if name and (file := Path(name)).is_file() and file != bundle:
            yield file


def _certifi() -> str | None:
    try:
        import certifi
    except ModuleNotFoundError:  # not ours; it comes with most clients
        return None
    return certifi.where()


def _direct_hosts(no_proxy: str) -> list[str]:
    """Keep what was reached without a proxy, but nothing that stands for the hosted service."""
    entries = [entry.strip() for entry in no_proxy.split(",") if entry.strip()]
    kept = [entry for entry in entries if not _covers_fal(entry)]
    return list(dict.fromkeys(("127.0.0.1", "localhost", "::1", *kept)))


def _covers_fal(entry: str) -> bool:
    name = entry.partition(":")[0].lstrip("*.").lower()
    # "*", and such as "run", stand for more than the service
    return not name or is_fal_host(name) or name in ("run", "ai", "media", "com")
