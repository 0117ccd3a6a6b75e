"""A program of somebody's that takes webhooks on port 8080: prints each as a JSON line, and whether
its signature is right. Argument: the key of the signature.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            Webhook(sys.argv[1]).verify(body, headers)
            genuine = True
        except WebhookVerificationError:
            genuine = False
        said = {"id": headers.get("webhook-id"), "genuine": genuine, "message": json.loads(body)}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


ThreadingHTTPServer(("0.0.0.0", 8080), Receiver).serve_forever()  # noqa: S104 - in a pod
