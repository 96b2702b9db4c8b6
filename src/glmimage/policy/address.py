"""Which URLs and addresses the server may connect to on somebody else's word."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import quote, urljoin, urlsplit

import idna

from ..errors import InvalidSettings
from .errors import AddressRefused, FetchFailed

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL_CHARACTERS = 8192
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# the WHATWG rule: a host whose last label is a number is an IPv4 address, or nothing
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOWEST_FREE_PORT = 1024  # below it only the two of HTTP: nobody keeps pictures at 22 or 25

# is_global differs between Python versions, so the special blocks of the IANA registries are listed
_REFUSED_V4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 "
        "192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 "
        "192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3 "
        "168.63.129.16/32"  # Azure's host agent, in public space
    ).split()
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(block)
    for block in "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20".split()
)
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))


@dataclass(frozen=True)
class PublicUrl:
    """Hold the parts of a URL that was understood. host: small letters, without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _DEFAULT_PORTS[self.scheme] else f"{name}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target}"


_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_public_url(url: str) -> PublicUrl:
    """Take an http(s) URL apart once, so that the check and the connection see the same host.

    Raise AddressRefused for another scheme, credentials, and hosts spelled in ways that resolvers
    and browsers read differently.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise AddressRefused(
            f"The URL has {len(url)} characters; at most {MAX_URL_CHARACTERS} are read.",
            hint="Upload the file, or send it as a data URI.",
        )
    if _FORBIDDEN.search(url):
        raise _refused(url, "it contains a space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused(url, "it is not a valid URL") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise _refused(url, "only http and https URLs and data URIs are read")
    if "@" in parts.netloc:
        raise _refused(url, "a URL with a user name or password is not fetched")
    if port is None:
        if parts.netloc.endswith(":"):
            raise _refused(url, "its port is empty")
        port = _DEFAULT_PORTS[scheme]
    if port == 0:
        raise _refused(url, "port 0 does not exist")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]{}|^`")
    return PublicUrl(scheme, _read_host(url, parts.netloc, parts.hostname or ""), port, target)


def follow_location(here: PublicUrl, location: str) -> PublicUrl:
    """Return where a redirect leads, as strictly read as the first URL; raise AddressRefused."""
    if _FORBIDDEN.search(location):  # urljoin would drop some of them silently
        raise _refused(location, "it contains a space, a control character or a backslash")
    try:
        joined = urljoin(str(here), location)
    except ValueError:
        raise _refused(location, "it is not a valid URL") from None
    return parse_public_url(joined)


def _read_host(url: str, netloc: str, name: str) -> str:
    if netloc.startswith("["):
        try:
            return str(IPv6Address(name))  # a zone (%eth0) is no valid address here
        except ValueError:
            raise _refused(url, "its IPv6 address is malformed") from None
        finally:
            if "%" in name:
                raise _refused(url, "an IPv6 address with a zone is not fetched")
    try:
        host = name if name.isascii() else idna.encode(name, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise _refused(url, "its host is not a valid name") from None
    host = host.lower().removesuffix(".")
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise _refused(url, "its host is missing or not a valid name")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise _refused(url, "its host is an IPv4 address in an unusual form") from None
    return host


def why_not_public(address: Address) -> str:
    """Return why the address is none of the public internet, or an empty string."""
    if isinstance(address, IPv4Address):
        if any(address in block for block in _REFUSED_V4):
            return "it is private, local or reserved"
        return ""
    inner = _embedded_v4(address)
    if inner is not None:
        return why_not_public(inner)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return "it is private, local or reserved"
    if any(address in block for block in _REFUSED_V6):
        return "it is reserved or a tunnel"
    if (int(address) >> 32) & 0xFCFF_FFFF == 0x0000_5EFE:  # ISATAP: another IPv4 in the low half
        return "it is a tunnel"
    return ""


def _embedded_v4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that ::ffff:a.b.c.d and NAT64's 64:ff9b:: stand for."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64[0]:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


class AddressGuard:
    """Decide which addresses a host name may be connected at.

    allowed: what is fetched although it is private: networks (10.0.0.0/8), addresses, host names,
    names under a domain (.example.lan), each with :PORT or for every port.
    """

    def __init__(self, allowed: Iterable[str] = (), resolve: Resolve | None = None) -> None:
        self._allowed = [_read_allowed(entry) for entry in allowed if entry.strip()]
        self._resolve = resolve or resolve_host

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses to connect to, numeric and checked.

        Raise AddressRefused, or FetchFailed when the name has none.
        """
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            found = [host] if _as_address(host) else list(await self._resolve(host, port))
            addresses = [ipaddress.ip_address(text) for text in dict.fromkeys(found)]
        except (OSError, UnicodeError, ValueError):
            addresses = []
        if not addresses:
            raise FetchFailed(
                f"There is no address for {host!r}.", hint="Check the spelling of the URL."
            )
        for address in addresses:
            if self._is_allowed(host, address, port):
                continue
            reason = why_not_public(address) or _why_not_port(port)
            if not reason and _is_own(address):
                reason = "it is this machine"
            if reason:
                raise AddressRefused(
                    f"{shown} is not fetched: {reason}.",
                    hint="Upload the file, or ask the operator for an entry in the allow-list.",
                )
        return [str(address) for address in addresses]

    def _is_allowed(self, host: str, address: Address, port: int) -> bool:
        inner = _embedded_v4(address) if isinstance(address, IPv6Address) else None
        for entry in self._allowed:
            if entry.port not in (None, port):
                continue
            if isinstance(entry.what, str):
                suffix = entry.what.startswith(".") and host.endswith(entry.what)
                if host == entry.what or suffix:
                    return True
            elif address in entry.what or (inner is not None and inner in entry.what):
                return True
        return False


@dataclass(frozen=True)
class _Allowed:
    what: str | IPv4Network | IPv6Network
    port: int | None


def _read_allowed(entry: str) -> _Allowed:
    text, port = entry.strip().lower(), None
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5})", text)
    if match:
        text, port = match[1], int(match[2])
    bare = text.removeprefix("[").removesuffix("]")
    try:
        return _Allowed(ipaddress.ip_network(bare), port)
    except ValueError:
        if not _HOST.fullmatch(text.removeprefix(".")) or _NUMBER.fullmatch(
            text.rpartition(".")[2]
        ):
            raise InvalidSettings(
                f"{entry!r} is no entry for the allow-list of fetched addresses.",
                hint="Write a host name, .domain, address or network, with :PORT if only one.",
            ) from None
    return _Allowed(text, port)


async def resolve_host(host: str, port: int) -> list[str]:
    """Ask the system for the addresses of a name; raise OSError when it has none.

    In a thread of its own: strangers choose the names, and one that is answered late must not
    stand in the way of other names, nor of the files, which share the loop's few threads.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str] | Exception) -> None:
        if answer.done():  # nobody waits any more
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def ask() -> None:
        found: list[str] | Exception
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [str(entry[4][0]) for entry in entries]
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await answer


def _as_address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _why_not_port(port: int) -> str:
    if port in _DEFAULT_PORTS.values() or port >= _LOWEST_FREE_PORT:
        return ""
    return f"port {port} belongs to another service"


def _is_own(address: Address) -> bool:
    # only an address of this machine can be bound; the server's own public one counts as private
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _refused(url: str, reason: str) -> AddressRefused:
    shown = url if len(url) <= 80 else url[:77] + "..."
    return AddressRefused(
        f"{shown!r} is not fetched: {reason}.",
        hint="Give an http or https URL of the public internet, or a data URI.",
    )
