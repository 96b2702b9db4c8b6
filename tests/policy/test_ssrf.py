"""Tricks to make the server fetch what it must not: none may lead to a connection."""

import re
import socket

import pytest

from glmimage.errors import InvalidSettings
from glmimage.policy import AddressGuard, AddressRefused, FetchFailed, PolicyError
from glmimage.policy.address import parse_public_url, resolve_host

from .conftest import OTHER, PUBLIC, page

pytestmark = pytest.mark.anyio

# name -> what DNS says, for the tricks that hide behind a name
NAMES = {
    "local.example": ["127.0.0.1"],
    "zero.example": ["0.0.0.0"],
    "intranet.example": ["10.1.2.3"],
    "router.example": ["192.168.0.1"],
    "docker.example": ["172.17.0.1"],
    "carrier.example": ["100.64.0.9"],
    "metadata.example": ["169.254.169.254"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "tunnel.example": ["2002:7f00:1::"],
    "teredo.example": ["2001:0:7f00:1::"],
    "unique.example": ["fd00:ec2::254"],
    "link.example": ["fe80::1%2"],
    "empty.example": [],
    "nonsense.example": ["not an address"],
    "localhost": ["127.0.0.1", "::1"],
    "metadata.google.internal": ["169.254.169.254"],
    "example.com": [PUBLIC],
}

TRICKS = [
    # addresses of this machine
    "http://127.0.0.1/",
    "http://127.1.2.3/",
    "http://0.0.0.0/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    # the same in other spellings of IPv4
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0/",
    "http://127.0.0.01/",
    "http://127.0.0.1./",
    "http://example.com.0x7f/",
    "http://4294967297/",
    "http://１２７.０.０.１/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://%31%32%37.0.0.1/",
    # IPv4 inside IPv6
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::10.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a00:1::]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2600::5efe:127.0.0.1]/",
    "http://[2600::200:5efe:10.0.0.1]/",
    # private, link-local, shared, reserved
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://240.0.0.1/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[100::1]/",
    "http://[5f00::1]/",
    # names that lead there
    *(f"http://{name}/" for name in NAMES if name not in ("example.com", "localhost")),
    # other schemes
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://example.com/etc/passwd",
    "ftp://example.com/a.png",
    "gopher://example.com:70/_",
    "dict://example.com:11211/stats",
    "ldap://example.com/",
    "jar:http://example.com/!/",
    "ws://example.com/",
    "unix:/var/run/docker.sock",
    "javascript:alert(1)",
    "//example.com/a.png",
    "/etc/passwd",
    "example.com/a.png",
    # credentials, and what looks like a host but is a user name
    "http://user:password@example.com/",
    "http://user@example.com/",
    "http://example.com@127.0.0.1/",
    "http://example.com:80@127.0.0.1/",
    "http://127.0.0.1:80\\@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1?@example.com/",
    "http://example.com%00.evil.example/",
    "http://example.com%2f@127.0.0.1/",
    # other services' ports, and ports that are none
    "http://example.com:22/",
    "http://example.com:25/",
    "http://example.com:445/",
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:-80/",
    "http://example.com:8o/",
    "http://example.com:/",
    # a second request or header inside the first
    "http://example.com/\r\nHost: 127.0.0.1",
    "http://example.com/ HTTP/1.1\r\nX: y\r\n\r\nGET /",
    "http://exam\tple.com/",
    "http://example.com\n/",
    " http://127.0.0.1/",
    "http://\x00127.0.0.1/",
    # nothing at all
    "http://",
    "http:///a.png",
    "http://.../",
    "http://[::1/",
    "http://[]/",
    "http://[127.0.0.1]/",
    "http://-example.com/",
    "",
    "http://example.com/" + "a" * 9000,
]


# as a redirect these lead to the first host again, or cannot stand in a header
_NOT_ELSEWHERE = {
    "",
    "/etc/passwd",
    "example.com/a.png",
    "//example.com/a.png",
    "http://",
    "http:///a.png",
}
REDIRECTS = [url for url in TRICKS if url not in _NOT_ELSEWHERE and not re.search(r"[\r\n\0]", url)]


def test_there_are_enough_tricks():
    assert len(set(TRICKS)) == len(TRICKS) >= 100


@pytest.mark.parametrize("url", TRICKS, ids=lambda url: ascii(url[:50]))
async def test_no_trick_is_fetched(internet, url):
    internet.names = {name: [answer] for name, answer in NAMES.items()}
    internet.pages = {path: page(b"secret") for path in ("/", "/latest/meta-data/")}
    with pytest.raises(FetchFailed) as caught:
        await internet.fetch(url)
    assert internet.dialled == []
    assert caught.value.code == "file_download_error"
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize("url", REDIRECTS, ids=lambda url: ascii(url[:50]))
async def test_no_trick_is_followed(internet, url):
    """Say the same in a redirect: nobody but the first host is connected to."""
    internet.names = {name: [answer] for name, answer in NAMES.items()}
    location = url.encode().decode("latin-1")
    internet.pages = {"/start": page(status="302 Found", location=location)}
    with pytest.raises(PolicyError):
        await internet.fetch("http://example.com/start")
    assert len(internet.dialled) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_to_public_addresses_are_followed(internet, status):
    internet.names["other.example"] = [[OTHER]]
    internet.pages = {
        "/a": page(status=f"{status} Moved", location="http://other.example:8080/b?c=%20d"),
        "/b?c=%20d": page(status="302 Found", location="c"),
        "/c": page(b"picture", content_type="image/png"),
    }
    fetched = await internet.fetch("http://example.com/a")
    assert (fetched.content, fetched.content_type) == (b"picture", "image/png")
    assert internet.dialled == [(PUBLIC, 80), (OTHER, 8080), (OTHER, 8080)]
    assert "host: other.example:8080" in internet.requests[1].lower()


async def test_redirects_end(internet):
    internet.pages = {"/a": page(status="302 Found", location="/a")}
    with pytest.raises(FetchFailed, match="more than 5 times"):
        await internet.fetch("http://example.com/a")
    assert len(internet.dialled) == 6


async def test_a_redirect_needs_a_place(internet):
    internet.pages = {"/a": page(status="302 Found")}
    with pytest.raises(FetchFailed, match="nowhere"):
        await internet.fetch("http://example.com/a")


async def test_rebinding_between_check_and_connection_changes_nothing(internet):
    """Answer with a public address first and a private one ever after: one look-up is all."""
    internet.names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    internet.pages = {"/": page(b"picture")}
    assert (await internet.fetch("http://rebind.example/")).content == b"picture"
    assert internet.dialled == [(PUBLIC, 80)]
    with pytest.raises(AddressRefused):
        await internet.fetch("http://rebind.example/")


async def test_rebinding_between_redirects_is_seen(internet):
    internet.names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    internet.pages = {"/": page(status="302 Found", location="http://rebind.example/")}
    with pytest.raises(AddressRefused):
        await internet.fetch("http://rebind.example/")
    assert internet.dialled == [(PUBLIC, 80)]


async def test_the_next_address_is_tried_when_one_is_dead(internet):
    internet.names["two.example"] = [[OTHER, PUBLIC]]
    internet.pages = {"/": page(b"picture")}
    dial = internet.connect_tcp

    async def first_is_dead(host, *rest, **options):
        connection = await dial(host, *rest, **options)
        if host == OTHER:
            from httpcore2 import ConnectError

            await connection.aclose()
            raise ConnectError("refused")
        return connection

    internet.connect_tcp = first_is_dead
    assert (await internet.fetch("http://two.example/")).content == b"picture"
    assert [address for address, _ in internet.dialled] == [OTHER, PUBLIC]


def _own_public_address():
    """Return an address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((PUBLIC, 9))  # a datagram socket sends nothing for it
        except OSError:
            return None
        return probe.getsockname()[0]


async def test_this_machine_is_refused_under_its_outer_address_too(internet, monkeypatch):
    """Own ports: a server with a public address must not fetch from itself."""
    address = _own_public_address()
    if address is None or address.startswith("127."):
        pytest.skip("this machine has no outer address")
    monkeypatch.setattr("glmimage.policy.address.why_not_public", lambda address: "")
    internet.names["me.example"] = [[address]]
    with pytest.raises(AddressRefused, match="it is this machine"):
        await internet.fetch("http://me.example:8000/health")
    assert internet.dialled == []


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        ("10.0.0.0/8", "http://10.1.2.3:9000/", True),
        ("10.0.0.0/8", "http://11.1.2.3:22/", False),
        ("10.1.2.3", "http://10.1.2.3/", True),
        ("10.1.2.3", "http://10.1.2.4/", False),
        ("10.1.2.3:9000", "http://10.1.2.3:9000/", True),
        ("10.1.2.3:9000", "http://10.1.2.3:9001/", False),
        ("intranet.example", "http://intranet.example/", True),
        ("intranet.example:81", "http://intranet.example:81/", True),
        ("intranet.example:81", "http://intranet.example/", False),
        ("intranet.example", "http://intranet.example.com/", False),
        (".example", "http://intranet.example/", True),
        (".ample", "http://intranet.example/", False),
        ("::1", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]:8001/", False),
        ("fd00::/8", "http://[fd00::7]/", True),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/", True),
        ("LOCALHOST", "http://localhost:3000/", True),
    ],
)
async def test_the_operator_may_allow_private_addresses(internet, entry, url, allowed):
    internet.names = {name: [answer] for name, answer in NAMES.items()}
    internet.pages = {"/": page(b"picture")}
    if allowed:
        assert (await internet.fetch(url, entry)).content == b"picture"
    else:
        with pytest.raises(FetchFailed):
            await internet.fetch(url, entry)
        assert internet.dialled == []


@pytest.mark.parametrize(
    "entry", ["300.0.0.1", "10.0.0.0/99", "a b", "http://a", "0x7f.1", "::1/200", "a:99999x"]
)
def test_a_wrong_entry_is_refused_at_the_start(entry):
    with pytest.raises(InvalidSettings, match="allow-list"):
        AddressGuard([entry])


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", "/"),
        ("http://example.com/a b".replace(" ", "%20"), "/a%20b"),
        ("http://example.com/ä.png?q=ü", "/%C3%A4.png?q=%C3%BC"),
        ("http://example.com/a?b#c", "/a?b"),
        ("https://xn--bcher-kva.example/", "/"),
    ],
)
def test_paths_are_encoded(url, target):
    assert parse_public_url(url).target == target


def test_international_names_are_encoded_before_they_are_checked():
    assert parse_public_url("http://bücher.example/").host == "xn--bcher-kva.example"
    assert parse_public_url("http://BÜCHER.example:8080/").host_header == (
        "xn--bcher-kva.example:8080"
    )


async def test_public_addresses_behind_nat64_are_reached(internet):
    """On a network with IPv6 alone, that is how the rest of the internet looks."""
    internet.names["four.example"] = [["64:ff9b::5db8:d70e"]]
    internet.pages = {"/": page(b"picture")}
    assert (await internet.fetch("http://four.example/")).content == b"picture"
    assert internet.dialled == [("64:ff9b::5db8:d70e", 80)]


async def test_the_system_resolves_names():
    assert "127.0.0.1" in await resolve_host("localhost", 80)
