#!/usr/bin/env python3
"""Real clients against the practice org, through the proxy, while sessions are revoked underneath.

    tests/clients/setup.sh && target/clients/venv/bin/python tests/clients/run.py --bin target/debug/sf-token-proxy

Starts the practice org alone and the proxy with a configuration file, then one client after the other, then all at once.
Every client does the steps of its list, with no credential or a placeholder. A revoker ends all sessions about every 150 ms,
and the clients do so themselves at the points that hurt. What must hold: every step is right, no client sees a 401 or a 5xx,
no two logins overlap, no repeat is refused again, the program ends with 0, and no secret is in anything that anybody printed
or answered.

Ends with the plain line `N passed, N failed`. Only the standard library; every process has a deadline and is ended by
its own id. Nothing is skipped: a missing tool is a failure.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from harness import Metrics, end, fetch, revoking, start_org, start_proxy

HERE = pathlib.Path(__file__).resolve().parent
CLIENT_SECONDS = 180  # one by one a client takes 1 to 30


def clients(tools):
    """Name, command, steps: what clients.json says, which docs/conformance.md is made from."""
    programs = {
        "python": [tools / "venv/bin/python"],
        "node": ["node"],
        "node22": [tools / "node_modules/.bin/node"],
        "java": ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
    }
    found = []
    for client in json.loads((HERE / "clients.json").read_text()):
        program, file, *words = client["runs"]
        steps = " ".join(client["surfaces"].values()).split()
        found.append((client["name"], [*programs[program], HERE / file, *words], steps))
    return found


class Results:
    def __init__(self):
        self.passed = self.failed = 0

    def note(self, client, step, error=None, took=""):
        if error is None:
            self.passed += 1
        else:
            self.failed += 1
        print(f"{'ok  ' if error is None else 'FAIL'} {client:18} {step:22} {took:>9}{'' if error is None else '  ' + error}", flush=True)


# Processes


def run_client(name, command, due, environment, scratch):
    """One client to its end: its steps and its complaints. A step that it did not speak of has failed."""
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

    for name, command, due in chosen if alone else ():
        told(run_client(name, command, due, environment, scratch))
    print("     all at once:")
    with concurrent.futures.ThreadPoolExecutor(len(chosen)) as pool:
        together = [pool.submit(run_client, f"{name}+", command, due, environment, scratch) for name, command, due in chosen]
        for one in together:
            told(one.result())


# What must hold beyond the steps


def invariants(org, admin, revoker, results):
    stats = json.loads(fetch(org + "/control/stats"))
    metrics = Metrics(fetch(admin + "/metrics").decode())
    requests = metrics.of("requests_total")
    refused = sum(v for labels, v in requests if labels["code"] == "401")
    broken = {(l["code"], l["outcome"]): v for l, v in requests if v and l["code"].startswith("5")}
    failed = {l["outcome"]: v for l, v in requests if v and l["outcome"] in ("token_error", "proxy_error", "upstream_error", "timeout")}
    accepted, again = (metrics.sum("retries_total", result=r) for r in ("accepted", "refused_again"))
    skipped = metrics.sum("replay_skipped_total")
    logins = metrics.sum("token_requests_total", result="error")
    minted = stats["token_ok"]
    checks = [
        ("revoker-worked", revoker.revoked > 20 and not revoker.errors, f"{revoker.revoked} sessions revoked, {revoker.errors[:2]}"),
        ("revocations-hit-calls", stats["api_401"] > 20, f"the org said 401 to {stats['api_401']} calls"),
        ("one-login-at-a-time", stats["token_max_concurrent"] == 1, f"at most {stats['token_max_concurrent']} at once"),
        ("no-login-too-many", minted <= revoker.revoked + 1, f"{minted} logins for {revoker.revoked} revoked sessions"),
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

# But for the placeholder of a local login, which is none.
TOKEN = re.compile(rb"00D[0-9A-Za-z]{12,15}!(?!SFPROXY\.placeholder)[0-9A-Za-z._]{20,}")
JWT = re.compile(rb"eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}")
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def secrets(files):
    """The secrets among the files, as bytes that must be nowhere: whole values and lines of keys."""
    found = []
    for file in files:
        content = file.read_bytes()
        if file.name == "client_secret":
            found.append(content.strip())
        elif b"PRIVATE KEY" in content:
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
        binary = pathlib.Path(options.bin).resolve()
        org, org_at = start_org(binary, scratch)
        try:
            proxy, proxy_at = start_proxy(binary, org_at, scratch)
            at = org_at | proxy_at
            try:
                known = secrets([*pathlib.Path(at["ca_file"]).parent.iterdir(), at["listener_key"]])
                environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
                environment |= {
                    "BASE": at["proxy"], "TLS_BASE": at["tls"], "CA_FILE": str(at["listener_ca"]), "TOOLS": str(tools), "NODE_PATH": str(tools / "node_modules"), "SCRATCH": str(scratch),
                    "PYTHONDONTWRITEBYTECODE": "1",
                }
                with revoking(at, options.every) as (revoker, control):
                    environment["CONTROL"] = control
                    run_clients(chosen, not options.together, environment, scratch, results)
                invariants(at["control"], at["admin"], revoker, results)
                pages = {"metrics page": fetch(at["admin"] + "/metrics"), "readyz": fetch(at["admin"] + "/readyz")}
            finally:
                code = end(proxy, 35)
            results.note("proxy", "ends-with-0", None if code == 0 else f"exit code {code}")
        finally:
            code = end(org, 10)
        results.note("org", "ends-with-0", None if code == 0 else f"exit code {code}")
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
