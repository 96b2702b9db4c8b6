"""How the playground's files are served; what they do is tested in tests/browser."""

import re
import socket

import pytest


@pytest.fixture(scope="module")
def page(server):
    return server.stranger.get("/")


def assets(page):
    return re.findall(r'(?:href|src)="(/playground/[^"]+)"', page.text)


def test_the_page_needs_no_key(page):
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "{version}" not in page.text
    assert len(assets(page)) >= 2


def test_the_page_is_asked_for_each_time_and_its_files_never_again(server, page):
    assert page.headers["cache-control"] == "no-cache"
    again = server.stranger.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in assets(page):
        answer = server.stranger.get(path)
        assert answer.status_code == 200, path
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_policy_forbids_other_hosts(page, serve):
    rules = dict(
        part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
    )
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    for sources in rules.values():
        assert set(sources.split()) <= {"'self'", "'none'", "blob:", "data:"}
    server = serve(public_url="https://pictures.example.org/base")
    policy = server.stranger.get("/").headers["content-security-policy"]
    assert "img-src 'self' https://pictures.example.org blob: data:" in policy


def test_nothing_of_the_page_names_another_host(server, page):
    """Addresses in comments and namespaces are no requests; imports and links would be."""
    texts = [page.text]
    for path in assets(page):
        answer = server.stranger.get(path)
        if answer.headers["content-type"].startswith(("text/css", "text/javascript")):
            texts.append(answer.text)
    for text in texts:
        assert not re.search(r"""(import|from|src=|href=|url\()\s*["'(]?\s*(https?:)?//""", text)


@pytest.mark.parametrize(
    "name",
    [
        "../files.py",
        "%2e%2e/files.py",
        "..%2ffiles.py",
        "vendor/../../files.py",
        "/etc/passwd",
        "index.html",
        "nothing.js",
        "vendor",
        "app.js%00",
    ],
)
def test_only_known_names_are_served(server, page, name):
    version = assets(page)[0].split("/")[2]
    address = server.settings.http_port
    with socket.create_connection(("127.0.0.1", address)) as raw:  # httpx would tidy the path
        raw.sendall(
            f"GET /playground/{version}/{name} HTTP/1.1\r\n".encode()
            + b"Host: x\r\nConnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"404", b"400", b"401")
    assert b"import annotations" not in answer


def test_files_of_another_version_are_gone(server):
    answer = server.stranger.get("/playground/0000000000000000/app.js")
    assert answer.status_code == 404
    assert "Load the page again" in answer.json()["detail"]
