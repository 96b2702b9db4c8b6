"""An S3 server in this process (moto) that refuses writes when it is told to."""

import os
import threading
import uuid

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
REFUSALS = {
    403: ("403 Forbidden", "AccessDenied"),
    503: ("503 Slow Down", "SlowDown"),
}


class Bucket:
    """Serve one bucket until the context ends; `url` is what GLMIMAGE_FILES_URL takes."""

    def __init__(self):
        self.refusing = None
        self.num_refused = 0

    def __enter__(self):
        import boto3
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log_request(self, *_):
                pass

        # what moto keeps outlives its server
        self.name = f"pictures-{uuid.uuid4().hex[:12]}"
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._before = {name: os.environ.get(name) for name in CREDENTIALS}
        os.environ.update(CREDENTIALS)
        self.port = self._server.server_port
        self.address = f"http://127.0.0.1:{self.port}"
        client = boto3.client("s3", endpoint_url=self.address, region_name="us-east-1")
        client.create_bucket(Bucket=self.name)
        self.url = self.url_at(self.port)
        return self

    def __exit__(self, *error):
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url_at(self, port):
        """Return the bucket's URL at a port of this machine, such as a proxy's."""
        endpoint = f"http://127.0.0.1:{port}"
        return f"s3://{self.name}/files?endpoint={endpoint}&region=us-east-1&path_style=true"

    def _answer(self, environ, start_response):
        if self.refusing is None or environ["REQUEST_METHOD"] not in ("PUT", "POST"):
            return self._moto(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.num_refused += 1
        status, code = REFUSALS[self.refusing]
        start_response(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>Not now.</Message></Error>".encode()]
