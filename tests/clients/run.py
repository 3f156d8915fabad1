#!/usr/bin/env python3
"""Real clients against the practice org, through the proxy, while sessions are revoked underneath.

    tests/clients/setup.sh && target/clients/venv/bin/python tests/clients/run.py --bin target/debug/sf-token-proxy

Starts `sf-token-proxy demo`, then one client after the other, then all at once. Every client does the same steps (see
scenario.py), with no credential or a placeholder. A revoker ends all sessions about every 150 ms, and the clients do so themselves at the
points that hurt. What must hold: every step is right, no client sees a 401 or a 5xx, no two logins overlap, no repeat is
refused again, the program ends with 0, and no secret is in anything that anybody printed or answered.

Ends with the plain line `N passed, N failed`. Only the standard library; every process has a deadline and is ended by
its own id. Nothing is skipped: a missing tool is a failure.
"""

import argparse
import concurrent.futures
import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
STEPS = (
    "versions describe limits insert read update upsert delete composite collections query "
    "bulk-ingest bulk-query file head not-found bad-request"
).split()
CLIENT_SECONDS = 60  # one by one a client takes 1 to 6
PREFIX = "sf_token_proxy_"


def clients(tools):
    """Name, command, and the steps that only this client has."""
    python, node, java = tools / "venv/bin/python", "node", "java"
    return [
        ("jsforce", [node, HERE / "jsforce_client.js"], []),
        ("node-fetch", [node, HERE / "fetch_client.mjs"], []),
        ("requests", [python, HERE / "requests_client.py"], ["cookies"]),
        ("httpx", [python, HERE / "httpx_client.py"], []),
        ("httpx-http2", [python, HERE / "httpx_client.py", "http2"], []),
        ("aiosalesforce", [python, HERE / "aiosalesforce_client.py"], []),
        ("urllib", [python, HERE / "urllib_client.py"], []),
        ("curl", [python, HERE / "curl_client.py"], ["http2-prior-knowledge", "upgrade-h2c", "expect-100", "raw-url"]),
        ("java", [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", HERE / "Client.java"], ["upgrade-h2c", "expect-100"]),
    ]


class Results:
    def __init__(self):
        self.passed = self.failed = 0

    def note(self, client, step, error=None, took=""):
        if error is None:
            self.passed += 1
        else:
            self.failed += 1
        print(f"{'ok  ' if error is None else 'FAIL'} {client:14} {step:22} {took:>9}{'' if error is None else '  ' + error}", flush=True)


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
        self.last = 0.0
        self.stop = threading.Event()
        self.errors = []

    def revoke(self):
        with self.lock:
            if json.loads(fetch(self.org + "/control/stats"))["live_sessions"] == 0:
                return  # dead already, and nobody has called since
            self.wait_for_repeats()
            fetch(self.proxy + "/services/data/v60.0/limits")
            self.revoked += json.loads(fetch(self.org + "/control/revoke", "POST"))["revoked"]
            self.last = time.monotonic()

    def wait_for_repeats(self):
        """Until as many calls were repeated as were refused. A call that was refused twice counts once among the repeats: what
        is left over when nothing is in flight is that. A repeat that stands still for so long has been let in by the org and
        is only slow."""
        before, since = None, time.monotonic()
        while True:
            metrics = Metrics(fetch(self.admin + "/metrics").decode())
            now = (metrics.sum("token_rejections_total"), metrics.sum("retries_total", result="accepted|refused_again|no_token"))
            if metrics.sum("requests_in_flight") == 0:
                self.twice_refused = now[0] - now[1]
            if now[0] - now[1] <= self.twice_refused:
                return
            if now != before:
                before, since = now, time.monotonic()
            if time.monotonic() - since > 8:
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
                    if self.path != "/control/revoke":
                        raise ValueError("only /control/revoke")
                    revoker.revoke()
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


def start_demo(binary, scratch):
    """The running demo and the addresses in its summary."""
    summary = scratch / "summary.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SFPROXY_")}
    with open(scratch / "demo.out", "wb") as out, open(scratch / "demo.err", "wb") as err:
        command = [binary, "demo", "--summary", summary, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        demo = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
    until = time.monotonic() + 30
    while demo.poll() is None and time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return demo, json.loads(summary.read_text())
        time.sleep(0.05)
    end(demo, 5)
    raise RuntimeError("the demo did not come up: " + " ".join((scratch / f"demo.{name}").read_text()[-300:].replace("\n", " ") for name in ("out", "err")))


def run_client(name, command, own_steps, environment, scratch):
    """One client to its end: its steps and its complaints. A step that it did not speak of has failed."""
    due = STEPS + own_steps
    environment = environment | {"CLIENT": name, "TRACE": str(scratch / f"{name}.trace")}
    why = "did not say how it went"
    with open(scratch / f"{name}.out", "wb") as out, open(scratch / f"{name}.err", "wb") as err:
        try:
            process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
        except OSError as error:
            why = f"cannot be started: {error}"
        else:
            try:
                code = process.wait(CLIENT_SECONDS)
                why = f"did not say how it went; exit code {code}"
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                why = f"was stopped after {CLIENT_SECONDS} s"
    said = {}
    for line in (scratch / f"{name}.out").read_text(errors="replace").splitlines():
        if line.startswith("STEP "):
            _, verdict, step, took, *rest = line.split(" ", 4)
            said[step] = (took + " ms", None if verdict == "ok" else " ".join(rest) or "failed")
    steps = [(name, step, *said.pop(step, ("", why))) for step in due]
    steps += [(name, step, "", "a step that nobody asked for") for step in said]
    return steps, (scratch / f"{name}.err").read_text(errors="replace").strip()


def run_clients(chosen, alone, environment, scratch, results):
    """One after the other, which shows whose fault it is; then all at once, when one's refused calls meet another's login."""
    def told(done):
        steps, complaint = done
        for client, step, took, error in steps:
            results.note(client, step, error, took)
        if complaint:
            print("     | " + complaint[-2000:].replace("\n", "\n     | "))

    for name, command, own_steps in chosen if alone else ():
        told(run_client(name, command, own_steps, environment, scratch))
    print("     all at once:")
    with concurrent.futures.ThreadPoolExecutor(len(chosen)) as pool:
        together = [pool.submit(run_client, f"{name}+", command, own_steps, environment, scratch) for name, command, own_steps in chosen]
        for one in together:
            told(one.result())


# What must hold beyond the steps


def invariants(org, admin, revoker, before, results):
    """`before`: the org's counts when the clients began; the demo's tour has revoked and logged in already."""
    stats = json.loads(fetch(org + "/control/stats"))
    metrics = Metrics(fetch(admin + "/metrics").decode())
    requests = metrics.of("requests_total")
    refused = sum(v for labels, v in requests if labels["code"] == "401")
    broken = {(l["code"], l["outcome"]): v for l, v in requests if v and l["code"].startswith("5")}
    failed = {l["outcome"]: v for l, v in requests if v and l["outcome"] in ("token_error", "proxy_error", "upstream_error", "timeout")}
    accepted, again = (metrics.sum("retries_total", result=r) for r in ("accepted", "refused_again"))
    skipped = metrics.sum("replay_skipped_total")
    logins = metrics.sum("token_requests_total", result="error")
    minted = stats["token_ok"] - before["token_ok"]
    checks = [
        ("revoker-worked", revoker.revoked > 20 and not revoker.errors, f"{revoker.revoked} sessions revoked, {revoker.errors[:2]}"),
        ("revocations-hit-calls", stats["api_401"] > 20, f"the org said 401 to {stats['api_401']} calls"),
        ("one-login-at-a-time", stats["token_max_concurrent"] == 1, f"at most {stats['token_max_concurrent']} at once"),
        ("no-login-too-many", minted <= revoker.revoked, f"{minted} logins for {revoker.revoked} revoked sessions"),
        ("no-login-failed", logins == 0, f"{logins:.0f} failed"),
        ("repeats-accepted", accepted > 20, f"{accepted:.0f} accepted"),
        ("none-refused-again", again == 0, f"{again:.0f} refused again"),
        ("every-body-was-kept", skipped == 0, f"{skipped:.0f} not repeatable"),
        ("no-401-to-a-client", refused == 0, f"{refused:.0f} of them"),
        ("no-5xx-to-a-client", not broken, f"{broken}"),
        ("no-failed-outcome", not failed, f"{failed}"),
        ("nothing-kept", metrics.sum("replay_bytes") == 0, f"{metrics.sum('replay_bytes'):.0f} bytes still kept for repeats"),
    ]
    for name, holds, text in checks:
        results.note("proxy", name, None if holds else text)
    calls = sum(v for _, v in requests)
    print(f"     {calls:.0f} calls, {stats['api_401']} refused by the org, {accepted:.0f} repeated ({revoker.twice_refused:.0f} of them twice), {minted} logins, {revoker.impatient} revocations without patience")


# The canary

TOKEN = re.compile(rb"00D[0-9A-Za-z]{12,15}![0-9A-Za-z._]{20,}")
JWT = re.compile(rb"eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}")
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def secrets(ca_file):
    """The secrets in the practice org's folder, as bytes that must be nowhere: whole values and lines of keys."""
    found = []
    for file in pathlib.Path(ca_file).parent.iterdir():
        content = file.read_bytes()
        if file.name == "client_secret":
            found.append(content.strip())
        elif file.suffix == ".key":
            found += [line for line in content.splitlines() if len(line) == 64]
    return found


def leaks(content, known):
    """What of a secret is in `content`, by kind; the secret itself is not told."""
    kinds = {"an access token": TOKEN, "a JWT": JWT, "a private key": PRIVATE_KEY}
    found = [kind for kind, pattern in kinds.items() if pattern.search(content)]
    return found + (["a secret of the practice org's files"] if any(secret in content for secret in known) else [])


def canary(known, scratch, admin_texts, due, results):
    planted = {
        "an access token": b"00DSB0000001pRC!AQ4AQ" + b"abc.def_" * 10,
        "a JWT": b"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIzTVZHOSJ9.c2lnbmF0dXJl",
        "a private key": b"-----BEGIN PRIVATE KEY-----",
    }
    blind = [kind for kind, text in planted.items() if leaks(b"x" + text, []) != [kind]]
    blind += [] if known and all(len(secret) > 20 for secret in known) else ["the practice org's files"]
    results.note("canary", "sees-what-is-planted", f"blind for {blind}" if blind else None)
    watched = {file.name: file.read_bytes() for file in sorted(scratch.iterdir()) if file.is_file()} | admin_texts
    size = sum(len(content) for content in watched.values())
    bad = {name: found for name, content in watched.items() if (found := leaks(content, known))}
    traces = [name for name, content in watched.items() if name.endswith(".trace") and content.strip()]
    results.note("canary", "nothing-leaked", f"{bad}" if bad else None)
    results.note("canary", "watched-every-client", None if len(traces) == due else f"answers of {traces} only")
    print(f"     searched {len(watched)} outputs, {size:,} bytes")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    arguments.add_argument("--bin", required=True, help="the program, a debug build")
    arguments.add_argument("--only", help="clients, with commas")
    arguments.add_argument("--together", action="store_true", help="only all at once")
    arguments.add_argument("--every", type=float, default=0.15, help="seconds between revocations")
    arguments.add_argument("--keep", action="store_true", help="keep the folder of outputs")
    options = arguments.parse_args()

    started = time.monotonic()
    results = Results()
    tools = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target")).resolve() / "clients"
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=tools))
    only = options.only.split(",") if options.only else None
    chosen = [client for client in clients(tools) if only is None or client[0] in only]
    try:
        demo, at = start_demo(pathlib.Path(options.bin).resolve(), scratch)
        try:
            known = secrets(at["ca_file"])
            before = json.loads(fetch(at["control"] + "/control/stats"))
            environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
            environment |= {"BASE": at["proxy"], "NODE_PATH": str(tools / "node_modules"), "SCRATCH": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
            with revoking(at, options.every) as (revoker, control):
                environment["CONTROL"] = control
                run_clients(chosen, not options.together, environment, scratch, results)
            invariants(at["control"], at["admin"], revoker, before, results)
            pages = {"metrics page": fetch(at["admin"] + "/metrics"), "readyz": fetch(at["admin"] + "/readyz")}
        finally:
            code = end(demo, 35)
        results.note("proxy", "ends-with-0", None if code == 0 else f"exit code {code}")
        canary(known, scratch, pages, len(chosen) * (1 if options.together else 2), results)
    except Exception as error:
        results.note("runner", "run", f"{type(error).__name__}: {error}")
    finally:
        if options.keep or results.failed:
            print(f"outputs are in {os.path.relpath(scratch)}")
        else:
            shutil.rmtree(scratch)
    print(f"{time.monotonic() - started:.0f} s")
    print(f"{results.passed} passed, {results.failed} failed")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
