#!/usr/bin/env python3
"""Does packaging/published.sh tell "not there" from "cannot tell"? Against a registry of our own that answers as the test says: `make image`.

Owns: a server on a free port of 127.0.0.1, a folder. Fails with: what was answered, what was expected, exit code 1.
Source: OCI distribution specification, "Error Codes".
"""

import hashlib
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
INDEX = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}).encode()
DIGEST = f"sha256:{hashlib.sha256(INDEX).hexdigest()}"


def refused(status, code, message="said by the registry"):
    return status, json.dumps({"errors": [{"code": code, "message": message}]}).encode()


# Tag: the registry's answer, and whether that means there, not there, or unknown.
ANSWERS = {
    "there": ((200, INDEX), DIGEST),
    "no-such-tag": (refused(404, "MANIFEST_UNKNOWN"), ""),
    "no-such-name": (refused(404, "NAME_UNKNOWN"), ""),
    "no-such-tag-in-harbor": (refused(404, "NOT_FOUND", "artifact acme/app:no-such-tag-in-harbor not found"), ""),
    "not-logged-in": (refused(401, "UNAUTHORIZED"), None),
    "not-allowed": (refused(403, "DENIED"), None),
    "broken": ((500, b"<html>manifest unknown</html>"), None),
    "another-404": ((404, b"<html>no such page</html>"), None),
    "unknown": (refused(403, "DENIED"), None),
}


class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        tag = self.path.rsplit("/", 1)[1]
        status, body = (200, b"{}") if self.path == "/v2/" else ANSWERS[tag][0]
        self.send_response(status)
        self.send_header("Content-Type", json.loads(INDEX)["mediaType"] if body == INDEX else "application/json" if body[:1] == b"{" else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    host = f"127.0.0.1:{server.server_port}"
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = pathlib.Path(folder) / "key.pem", pathlib.Path(folder) / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=registry",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        references = [(f"{host}/acme/app:{tag}", want) for tag, (_, want) in ANSWERS.items()]
        for reference, want in [*references, ("127.0.0.1:1/acme/app:nobody-listens", None)]:
            done = subprocess.run(
                [ROOT / "packaging/published.sh", reference], capture_output=True, text=True, timeout=120, check=False,
                env={**os.environ, "SSL_CERT_FILE": str(certificate)},
            )  # fmt: skip
            got = done.stdout.strip() if done.returncode == 0 else None
            name = reference.rsplit(":", 1)[1]
            if got == want:
                print(f"image: ok: published.sh: {name}")
            else:
                wrong += 1
                print(f"image: FAILED: published.sh: {name}: {got!r}, not {want!r}: {done.stderr.strip()}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
