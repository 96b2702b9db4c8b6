"""Submit with a webhook, and receive it: `python webhook_receiver.py [port]`.

The receiver must be reachable from where fal runs. A delivery is believed only when its signature
is right and fresh; the same one may come twice.
"""

import base64
import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import fal_client
import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KEYS_URL = "https://rest.fal.ai/.well-known/jwks.json"
TOLERANCE_S = 300


def fetch_keys():
    keys = httpx.get(KEYS_URL).raise_for_status().json()["keys"]
    padded = (key["x"] + "=" * (-len(key["x"]) % 4) for key in keys)
    return [Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x)) for x in padded]


def is_genuine(headers, body, keys):
    """Check a delivery: request id, user id, timestamp and the body's hash, signed by fal."""
    names = ("Request-Id", "User-Id", "Timestamp", "Signature")
    values = [headers.get(f"X-Fal-Webhook-{name}") for name in names]
    if not all(values):
        return False
    request_id, user_id, timestamp, signature = values
    try:
        if abs(time.time() - int(timestamp)) > TOLERANCE_S:
            return False
        signed = bytes.fromhex(signature)
    except ValueError:
        return False
    digest = hashlib.sha256(body).hexdigest()
    message = "\n".join((request_id, user_id, timestamp, digest)).encode()
    for key in keys:
        try:
            key.verify(signed, message)
        except InvalidSignature:
            continue
        return True
    return False


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        genuine = is_genuine(self.headers, body, self.server.keys)
        self.send_response(204 if genuine else 401)
        self.end_headers()
        if genuine:
            self.server.delivery = json.loads(body)

    def log_message(self, *unused):
        pass


def main(port):
    server = HTTPServer(("127.0.0.1", port), Receiver)
    server.keys, server.delivery = fetch_keys(), None
    handle = fal_client.submit(
        "fal-ai/glm-image",
        arguments={
            "prompt": "A shop window with the words 'Spring Sale'",
            "image_size": "square",
            "num_inference_steps": 10,
        },
        webhook_url=f"http://127.0.0.1:{server.server_port}/fal",
    )
    print("submitted", handle.request_id, flush=True)
    while server.delivery is None or server.delivery["request_id"] != handle.request_id:
        server.handle_request()
    if server.delivery["status"] == "OK":
        print("received", server.delivery["payload"]["images"][0]["url"])
    else:
        print("failed:", server.delivery["error"])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9000)
