"""The CONNECT proxy: the hosted service's names never leave, everything else does."""

import base64
import socket
import threading
from contextlib import contextmanager

import pytest

from glmimage.redirect.connect_proxy import ConnectProxy, Upstream


class Listener:
    """Accept connections, and answer each with its name and the first bytes it was sent."""

    def __init__(self, name):
        self.name = name
        self.heard = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection:
            while received := connection.recv(65536):
                self.heard.append(received)
                connection.sendall(f"{self.name}:".encode() + received)

    def close(self):
        self._socket.close()


class ProxyListener(Listener):
    """Say yes to CONNECT, then answer like any listener."""

    def _answer(self, connection):
        self.heard.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
        super()._answer(connection)


@pytest.fixture
def listen():
    opened = []

    def start(name, kind=Listener):
        opened.append(kind(name))
        return opened[-1]

    yield start
    for listener in opened:
        listener.close()


@contextmanager
def client(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        yield connection


def connect(connection, target):
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    return connection.recv(65536).decode()


@pytest.mark.parametrize(
    "target",
    [
        "fal.run:443",
        "queue.fal.run:443",
        "FAL.Run:443",
        "fal.run.:443",
        "falrun.com:443",
        "queue.falrun.com:443",
        "rest.fal.ai:443",
        "rest.alpha.fal.ai:443",
        "auth.fal.ai:443",
        "v3.fal.media:443",
        "some-new-name.fal.ai:8443",
    ],
)
def test_every_name_of_the_service_is_answered_here(listen, target):
    server = listen("ours")
    outside = listen("outside", ProxyListener)
    upstream = Upstream(f"http://127.0.0.1:{outside.address[1]}")
    with ConnectProxy(server.address, upstream) as proxy, client(proxy) as connection:
        assert connect(connection, target).startswith("HTTP/1.1 200")
        connection.sendall(b"hello")
        assert connection.recv(100) == b"ours:hello"
    assert outside.heard == []


@pytest.mark.parametrize("name", ["notfal.run", "fal.run.example.org", "fal.running"])
def test_a_name_that_only_looks_alike_is_not_ours(listen, name):
    server = listen("ours")
    outside = listen("outside", ProxyListener)
    upstream = Upstream(f"http://127.0.0.1:{outside.address[1]}")
    with ConnectProxy(server.address, upstream) as proxy, client(proxy) as connection:
        assert connect(connection, f"{name}:443").startswith("HTTP/1.1 200")
        connection.sendall(b"hello")
        assert connection.recv(100) == b"outside:hello"
    assert server.heard == []


def test_other_hosts_are_reached_directly(listen):
    server, other = listen("ours"), listen("other")
    with ConnectProxy(server.address) as proxy, client(proxy) as connection:
        assert connect(connection, f"localhost:{other.address[1]}").startswith("HTTP/1.1 200")
        connection.sendall(b"x" * 300_000)
        received = b""
        while received.count(b"x") < 300_000:
            received += connection.recv(65536)
        assert received.startswith(b"other:x")


def test_the_proxy_of_this_machine_is_used_with_its_password(listen):
    server, outside = listen("ours"), listen("outside", ProxyListener)
    upstream = Upstream(f"http://user:p%40ss@127.0.0.1:{outside.address[1]}")
    with ConnectProxy(server.address, upstream) as proxy, client(proxy) as connection:
        assert connect(connection, "example.org:443").startswith("HTTP/1.1 200")
    head = outside.heard[0].decode()
    assert head.startswith("CONNECT example.org:443 HTTP/1.1\r\n")
    pair = base64.b64encode(b"user:p@ss").decode()
    assert f"Proxy-Authorization: Basic {pair}\r\n" in head


def test_plain_http_goes_one_request_at_a_time(listen):
    server, other = listen("ours"), listen("other")
    with ConnectProxy(server.address) as proxy, client(proxy) as connection:
        target = f"http://127.0.0.1:{other.address[1]}/a?b=c"
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: here\r\nProxy-Connection: keep-alive\r\n"
            "Connection: keep-alive\r\nAccept: */*\r\n\r\n".encode()
        )
        assert connection.recv(65536) == (
            b"other:GET /a?b=c HTTP/1.1\r\nHost: here\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )


@pytest.mark.parametrize(
    ("head", "status", "says"),
    [
        ("GET http://fal.run/x HTTP/1.1", 403, "use https"),
        ("POST http://queue.falrun.com/x HTTP/1.1", 403, "use https"),
        ("GET https://fal.run/x HTTP/1.1", 403, "use https"),
        ("GET / HTTP/1.1", 400, "not an address"),
        ("CONNECT  HTTP/1.1", 400, "not an address"),
        ("CONNECT a:99999 HTTP/1.1", 400, "not an address"),
        ("CONNECT 127.0.0.1:{closed} HTTP/1.1", 502, "cannot be reached"),
        ("nonsense", 400, "not an address"),
        ("GET http://a/ HTTP/1.1\r\nX: " + "x" * 70_000, 431, "long"),
    ],
)
def test_what_cannot_be_connected_is_told(listen, head, status, says):
    server = listen("ours")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    with ConnectProxy(server.address) as proxy, client(proxy) as connection:
        connection.sendall(f"{head.replace('{closed}', str(closed))}\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert says in answer.decode()
    assert server.heard == []


def test_a_proxy_of_another_kind_is_named(listen):
    with (
        ConnectProxy(listen("ours").address, Upstream("socks5://127.0.0.1:1080")) as proxy,
        client(proxy) as connection,
    ):
        assert "only http:// proxies" in connect(connection, "example.org:443")


def test_a_server_that_is_gone_is_not_replaced_by_the_public_one(listen):
    outside = listen("outside", ProxyListener)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        gone = unused.getsockname()
    upstream = Upstream(f"http://127.0.0.1:{outside.address[1]}")
    with ConnectProxy(gone, upstream) as proxy, client(proxy) as connection:
        assert connect(connection, "fal.run:443").startswith("HTTP/1.1 502")
    assert outside.heard == []


def test_leaving_closes_what_is_open(listen):
    with ConnectProxy(listen("ours").address) as proxy:
        connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        assert connect(connection, "fal.run:443").startswith("HTTP/1.1 200")
    with connection:
        assert connection.recv(10) == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
