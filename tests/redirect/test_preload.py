"""The Node preload: whichever module connects to the hosted service, it reaches our server."""

import json
import os
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from glmimage.config import load_settings
from glmimage.redirect.environment import Target, child_environment, write_bundle
from glmimage.server.tls import prepare_tls

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

HEAD = """
import https from "node:https"; import http from "node:http";
import tls, { connect } from "node:tls"; import net from "node:net"; import http2 from "node:http2";
const say = (value) => console.log(JSON.stringify(value));
const over = (socket, servername) => new Promise((resolve, reject) => {
  const secure = tls.connect({ socket, servername }, () => resolve(secure.authorized));
  secure.on("error", reject);
});
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start a TLS server that repeats the name under which it was called."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps([self.headers["Host"], self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *unused):
            pass

    files = prepare_tls(load_settings(data_dir=tmp_path_factory.mktemp("data")))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    target = Target(
        f"127.0.0.1:{httpd.server_port}", "id:secret", files.ca, files.ca.with_name("bundle.pem")
    )
    write_bundle(target, os.environ)
    yield target
    httpd.shutdown()
    httpd.server_close()


def node(server, script, **variables):
    environment = child_environment({**os.environ, **variables}, server, 9)
    done = subprocess.run(
        ["node", "--input-type=module", "-e", HEAD + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


NAMES = ["fal.run", "queue.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media"]


@pytest.mark.parametrize("name", [*NAMES, "falrun.com", "queue.falrun.com"])
def test_fetch_reaches_our_server_under_the_public_name(server, name):
    script = f"say(await (await fetch('https://{name}/a/b?c=d')).json());"
    assert node(server, script) == [[name, "/a/b?c=d"]]


@pytest.mark.parametrize(
    "script",
    [
        "https.get('https://fal.run/x', (r) => r.on('data', (d) => say(JSON.parse(d))));",
        """https.get({ hostname: 'fal.run', path: '/x', agent: new https.Agent() },
        (r) => r.on('data', (d) => say(JSON.parse(d))));""",
    ],
)
def test_the_https_module(server, script):
    assert node(server, script) == [["fal.run", "/x"]]


@pytest.mark.parametrize(
    "script",
    [
        """const s = tls.connect(443, 'fal.run', { servername: 'fal.run' },
        () => { say(s.authorized); s.end(); });""",
        """const s = connect({ host: 'queue.fal.run', port: 443 },
        () => { say(s.authorized); s.end(); });""",
        """const s = net.connect(443, 'fal.run',
        async () => { say(await over(s, 'fal.run')); s.destroy(); });""",
        """const s = net.createConnection({ port: 443, host: 'fal.run' },
        async () => { say(await over(s, 'fal.run')); s.destroy(); });""",
        """const s = new net.Socket(); s.connect(443, 'fal.run',
        async () => { say(await over(s, 'fal.run')); s.destroy(); });""",
    ],
)
def test_plain_sockets(server, script):
    assert node(server, script) == [True]


def test_other_hosts_are_left_alone(server):
    script = f"""
    const port = {server.address.split(":")[1]};
    say(await (await fetch(`https://localhost:${{port}}/x`)).json());
    const s = net.connect(port, () => {{ say("no host given"); s.destroy(); }});
    """
    answers = node(server, script)
    assert answers[0] == [f"localhost:{server.address.split(':')[1]}", "/x"]
    assert answers[1] == "no host given"


def test_plain_http_to_the_service_is_sent_nowhere(server):
    script = "try { await fetch('http://fal.run/x'); } catch (error) { say(error.cause.message); }"
    (reason,) = node(server, script)
    assert "use https" in reason


def test_threads_and_grandchildren_are_redirected_too(server):
    script = """
    import { Worker } from "node:worker_threads"; import { execFileSync } from "node:child_process";
    const ask = "fetch('https://fal.run/x').then((r) => r.text()).then(console.log)";
    new Worker(ask, { eval: true }).on("exit", () =>
      process.stdout.write(execFileSync(process.execPath, ["-e", ask])));
    """
    assert node(server, script) == [["fal.run", "/x"]] * 2


def test_without_exec_the_preload_does_nothing(server):
    script = "say(net.Socket.prototype.connect.name);"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", HEAD + script],
        env={
            **{name: value for name, value in os.environ.items() if name != "FAL_SERVED_BY"},
            "NODE_OPTIONS": child_environment({}, server, 9)["NODE_OPTIONS"],
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == '""\n'
