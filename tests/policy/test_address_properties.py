"""For any host at all: what the system would take for a number is a plain address, or refused."""

import ipaddress
import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from glmimage.policy import FetchFailed
from glmimage.policy.address import (
    _REFUSED_V4,
    follow_location,
    parse_public_url,
    why_not_public,
)

relaxed = settings(deadline=None)  # other work on the machine must not fail a test

numbers = st.one_of(
    st.integers(0, 2**32).map(str),
    st.integers(0, 2**32).map(hex),
    st.integers(0, 2**32).map(lambda number: f"0{number:o}"),
    st.integers(0, 300).map(str),
    st.integers(0, 300).map(lambda number: f"0{number}"),
    st.sampled_from(["", "0", "00", "0x", "0X7F", "1e3", "１２７", "٣"]),
)
odd_hosts = st.lists(numbers, min_size=1, max_size=5).map(".".join)


def parse(url):
    try:
        return parse_public_url(url)
    except FetchFailed:
        return None


@relaxed
@given(odd_hosts)
def test_no_number_is_read_otherwise_than_the_system_does(host):
    found = parse(f"http://{host}/")
    if found is None:
        return
    try:
        system = socket.inet_ntoa(socket.inet_aton(found.host))
    except OSError:
        return  # a name to the system too
    assert found.host == system


@relaxed
@given(st.text(max_size=30))
def test_any_host_is_refused_or_plain(host):
    found = parse(f"http://{host}/")
    if found is not None:
        assert found.host == found.host.lower()
        assert found.host.isascii()
        assert not set(found.host) & set(" /\\@#?%[]\r\n\t\0")


@relaxed
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    for url in (text, f"http://example.com/{text}", f"http://example.com{text}"):
        found = parse(url)
        if found is not None:
            assert found.target.startswith("/")
            assert found.target.isascii()
            assert not set(found.target) & set(" \r\n\t\0\\")


@relaxed
@given(st.text(max_size=60))
def test_any_location_is_followed_strictly_or_refused(location):
    here = parse_public_url("http://example.com/a")
    try:
        found = follow_location(here, location)
    except FetchFailed:
        return
    # read again, it is the same: nobody further down sees another host
    assert parse_public_url(str(found)) == found


@relaxed
@given(st.ip_addresses(v=4))
def test_what_the_standard_library_calls_private_is_refused(address):
    if not address.is_global or address.is_multicast:
        assert why_not_public(address)


@relaxed
@given(st.sampled_from(_REFUSED_V4), st.data())
def test_hiding_in_ipv6_does_not_help(block, data):
    inner = int(data.draw(st.ip_addresses(network=block)))
    for outer in (
        0xFFFF << 32 | inner,
        inner,
        0x64_FF9B << 96 | inner,
        0x64_FF9B_0001 << 80 | inner,
        0x2002 << 112 | inner << 80,
        0x2600 << 112 | 0x5EFE << 32 | inner,
        0x2001_0000 << 96 | inner ^ 0xFFFF_FFFF,
    ):
        assert why_not_public(ipaddress.IPv6Address(outer))


@relaxed
@given(st.ip_addresses(v=6))
def test_only_global_unicast_is_public(address):
    if not why_not_public(address):
        assert address.is_global or address in ipaddress.ip_network("64:ff9b::/96")
        assert not address.is_multicast
