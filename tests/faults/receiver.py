"""A receiver of webhooks that writes down what it gets, and refuses some at first."""

import http.server
import json
import threading
from collections import Counter


class Receiver:
    """Listen on a port of this machine; every `refuse_each`-th request is refused once."""

    def __init__(self, refuse_each=0):
        self.received, self.wrong, self.num_refused = Counter(), [], 0
        self._seen = set()
        self._lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                told = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(receiver.take(told, refuse_each))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, told, refuse_each):
        request_id = told["request_id"]
        with self._lock:
            new = request_id not in self._seen
            self._seen.add(request_id)
            if new and refuse_each and len(self._seen) % refuse_each == 0:
                self.num_refused += 1
                return 503
            self.received[request_id] += 1
            if told["status"] != "OK":
                self.wrong.append(told)
        return 200

    def close(self):
        self._server.shutdown()
        self._server.server_close()
