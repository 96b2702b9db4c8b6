"""An npm registry of what is installed already, so that `npm install` needs no network."""

import http.server
import io
import json
import tarfile
import threading
from urllib.parse import unquote


class NpmRegistry:
    """Serve the packages of a `node_modules`, each in the version that is there."""

    def __init__(self, node_modules):
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = unquote(self.path).lstrip("/")
                tarball = name.endswith(".tgz")
                folder = node_modules / name.removesuffix(".tgz")
                known = (folder / "package.json").is_file()
                body = (_packed if tarball else registry._described)(folder) if known else b"{}"
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def variables(self, cache):
        """Return what leads npm here."""
        told = {"registry": self.url, "cache": str(cache), "audit": "false", "fund": "false"}
        return {f"npm_config_{name}": value for name, value in told.items()}

    def _described(self, folder):
        package = json.loads((folder / "package.json").read_text("utf-8"))
        version = package["version"]
        package["dist"] = {"tarball": f"{self.url}/{package['name']}.tgz"}
        known = {"name": package["name"], "versions": {version: package}}
        return json.dumps({**known, "dist-tags": {"latest": version}}).encode()


def _packed(folder):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder, "package")
    return content.getvalue()
