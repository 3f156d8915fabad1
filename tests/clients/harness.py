"""What a run consists of beside the clients: the practice org, the proxy before it, and the revoker between them.

Only the standard library; every process is ended by its own id.
"""

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request

PREFIX = "sf_token_proxy_"

# The practice org's controls and the proxy's metrics


def fetch(url, method="GET", body=None):
    request = urllib.request.Request(url, method=method, data=body)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return answer.read()


class Metrics:
    """A scrape: sums of a family's series, filtered by labels."""

    LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")

    def __init__(self, text):
        self.series = []
        for line in text.splitlines():
            if found := self.LINE.match(line):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                self.series.append((found[1], labels, float(found[3])))

    def sum(self, family, **wanted):
        return sum(value for _, value in self.of(family, **wanted))

    def of(self, family, **wanted):
        return [
            (labels, value) for name, labels, value in self.series
            if name == PREFIX + family and all(re.fullmatch(pattern, labels.get(label, "")) for label, pattern in wanted.items())
        ]


class Revoker:
    """Ends all sessions, for the clock and for the clients: they get CONTROL from here.

    No revocation falls between a login and the repeat that waits for it: what happens then is the product's business
    and tested elsewhere (a token that nobody saw working and that is refused is passed on, design §5), and a client would
    see the 401 that must not come here. So: a session lives, no refused call waits for its repeat, and the newest token was
    seen working (by a call of our own; a client's may have been answered with 404, which proves nothing to the proxy).
    """

    def __init__(self, at):
        self.org, self.admin, self.proxy = at["control"], at["admin"], at["proxy"]
        self.lock = threading.Lock()
        self.revoked = 0
        self.twice_refused = 0
        self.impatient = 0
        self.last = self.quiet_until = 0.0
        self.stop = threading.Event()
        self.errors = []

    def revoke(self, quiet=0.0):
        """Ends all sessions; then none for `quiet` seconds, for those whose repeats are not waited for."""
        with self.lock:
            time.sleep(max(0.0, self.quiet_until - time.monotonic()))
            if json.loads(fetch(self.org + "/control/stats"))["live_sessions"] == 0:
                return  # dead already, and nobody has called since
            self.wait_for_repeats()
            fetch(self.proxy + "/services/data/v60.0/limits")
            self.revoked += json.loads(fetch(self.org + "/control/revoke", "POST"))["revoked"]
            self.last = time.monotonic()
            self.quiet_until = self.last + quiet

    def wait_for_repeats(self):
        """Until as many calls were repeated as were refused. A call that was refused twice counts once among the repeats: what
        is left over when nothing is in flight is that. A repeat that stands still for so long has been let in by the org and
        is only slow. CometD is left out: what ends its polls is not repeated, its clients begin anew."""
        before, since = None, time.monotonic()
        while True:
            metrics = Metrics(fetch(self.admin + "/metrics").decode())
            repeated = {"surface": "(?!cometd).*"}
            now = (metrics.sum("token_rejections_total", **repeated), metrics.sum("retries_total", result="accepted|refused_again|no_token", **repeated))
            if metrics.sum("requests_in_flight") == 0:
                self.twice_refused = now[0] - now[1]
            if now[0] - now[1] <= self.twice_refused:
                return
            if now != before:
                before, since = now, time.monotonic()
            if time.monotonic() - since > 8:
                # Not again for the same call: with a stream open there is always something in flight.
                self.twice_refused = now[0] - now[1]
                self.impatient += 1
                return
            time.sleep(0.002)

    def by_the_clock(self, every):
        while not self.stop.wait(every):
            try:
                if time.monotonic() - self.last > every:
                    self.revoke()
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")

    def handler(self):
        revoker = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.say(200, fetch(revoker.org + self.path))

            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                try:
                    path, _, quiet = self.path.partition("?quiet=")
                    if path != "/control/revoke":
                        raise ValueError("only /control/revoke")
                    revoker.revoke(float(quiet or 0))
                    self.say(200, b"{}")
                except Exception as error:
                    self.say(500, json.dumps({"error": str(error)}).encode())

            def say(self, status, body):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that has been stopped; it is told as such."""


@contextlib.contextmanager
def revoking(at, every):
    """The revoker at work; gives it and the address for the clients."""
    revoker = Revoker(at)
    server = Server(("127.0.0.1", 0), revoker.handler())
    threads = [
        threading.Thread(target=server.serve_forever, daemon=True),
        threading.Thread(target=revoker.by_the_clock, args=(every,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield revoker, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        revoker.stop.set()
        server.shutdown()
        for thread in threads:
            thread.join(15)
        server.server_close()


# Processes


def end(process, patience):
    """SIGTERM, then the exit code; None when it had to be killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def started(command, name, scratch, ready):
    """The running process and what `ready` made of its output, once that is something."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SFPROXY_")}
    out, err = scratch / f"{name}.out", scratch / f"{name}.err"
    with open(out, "wb") as to_out, open(err, "wb") as to_err:
        process = subprocess.Popen(command, stdout=to_out, stderr=to_err, stdin=subprocess.DEVNULL, env=environment)
    until = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until:
        if (found := ready(out.read_text())) is not None:
            return process, found
        time.sleep(0.02)
    end(process, 5)
    raise RuntimeError(f"{name} did not come up: " + " ".join(file.read_text()[-300:].replace("\n", " ") for file in (out, err)))


def start_org(binary, scratch):
    """The practice org alone, and its summary."""
    summary = scratch / "summary.json"

    def ready(_):
        with contextlib.suppress(FileNotFoundError):
            return json.loads(summary.read_text())

    return started([binary, "demo", "--org-only", "--summary", summary], "org", scratch, ready)


def configuration(org, tls):
    """What an operator would write. JSON is YAML, and quotes whatever a path may hold."""
    jwt = org["apps"]["jwt"]
    grant = {"client_id": jwt["client_id"], "username": jwt["username"], "private_key": f"file:{jwt['key_file']}"}
    return {
        "listeners": [{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0", "tls": {"generate_in": str(tls)}}],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {
            "practice": {
                "login_url": org["apps"]["login_url"],
                "grant": {"jwt_bearer": grant},
                "pub_sub": {"endpoint": org["apps"]["pubsub_url"]},
                # Sessions end several times a second here; no real org is to be spared.
                "login_budget": {"burst": 3600, "per_minute": 60},
            }
        },
        "upstream": {"ca_file": org["ca_file"]},
        "log": {"level": "info", "format": "json", "requests": True},
    }


def start_proxy(binary, org, scratch):
    """The proxy with a configuration file, and where it listens, as its log says."""
    file = scratch / "proxy.yaml"
    tls = scratch / "tls"
    file.write_text(json.dumps(configuration(org, tls), indent=1))

    def ready(printed):
        for line in printed.splitlines(keepends=True):
            if line.endswith("\n") and (event := json.loads(line)).get("message") == "listening":
                ports = [address.rsplit(":", 1)[1] for address in event["proxy"].split()]
                addresses = {"proxy": f"http://localhost:{ports[0]}", "tls": f"https://localhost:{ports[1]}", "admin": f"http://{event['admin']}"}
                return addresses | {"listener_ca": tls / "ca.pem", "listener_key": tls / "key.pem"}

    return started([binary, "run", "--config", file], "proxy", scratch, ready)
