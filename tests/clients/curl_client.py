"""curl: a process for every call, driven from here."""

import json
import os
import pathlib
import subprocess
import tempfile
import urllib.parse

import scenario

FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="curl-", dir=os.environ["SCRATCH"]))
version = None


def curl(method, target, headers, body, *options):
    global version
    how = ["-I"] if method == "HEAD" else ["-X", method]
    if body is not None:
        # `-T -` reads the standard input and sends it in chunks; `--data-binary @-` reads it first and tells the length.
        streamed = not isinstance(body, bytes)
        how += ["-T", "-"] if streamed else ["--data-binary", "@-"]
        body = b"".join(body) if streamed else body
    for name, value in headers.items():
        how += ["-H", f"{name}: {value}"]
    head, content = FOLDER / "head", FOLDER / "content"
    content.write_bytes(b"")
    command = ["curl", "-q", "-sS", "--noproxy", "*", "--compressed", "-m", "60", "-D", head, "-o", content]
    command += ["-w", "%{http_code} %{http_version}", *how, *options, scenario.BASE + target]
    done = subprocess.run(command, input=body or b"", capture_output=True, timeout=70)
    scenario.check(done.returncode == 0, f"curl exited {done.returncode}: {done.stderr.decode()}")
    status, version = done.stdout.decode().split()
    # The last head: before it may be a 100 Continue.
    lines = head.read_bytes().replace(b"\r\n", b"\n").strip().split(b"\n\n")[-1].decode().split("\n")[1:]
    names = {}
    for name, value in (line.split(":", 1) for line in lines):
        names[name.lower()] = ", ".join(filter(None, (names.get(name.lower()), value.strip())))
    return scenario.Answer(int(status), names, b"" if method == "HEAD" else content.read_bytes())


def with_options(*options):
    return lambda method, target, headers, body: curl(method, target, headers, body, *options)


def http2(at):
    """`--http2-prior-knowledge`: an insert of a megabyte, and a page of a query."""
    at.raw_send = with_options("--http2-prior-knowledge")
    scenario.revoke()
    rows = [{"attributes": {"type": "Account"}, "Name": "http2", "Description": "x" * 5_500} for _ in range(200)]
    results = at.send("POST", f"{scenario.DATA}/composite/sobjects", 200, body={"records": rows}).json()
    scenario.check(version == "2" and all(r["success"] for r in results), f"200 rows over HTTP/2, version was {version}")
    scenario.revoke()
    at.get(f"{scenario.DATA}/query?q=SELECT+Id+FROM+Account+LIMIT+5")
    scenario.revoke()
    at.get(f"{scenario.DATA}/limits")
    at.raw_send = curl


def upgrade(at):
    """`--http2` on plain http asks for an upgrade, which is to be ignored."""
    at.raw_send = with_options("--http2")
    scenario.revoke()
    target = f"{scenario.DATA}/limits?upgrade-of={scenario.CLIENT}"
    at.get(target)
    scenario.same(version, "1.1", "the protocol")
    sent = scenario.seen_by_org(target)
    names = {name for request in sent for name, _ in request["headers"]}
    scenario.check(sent and not names & {"upgrade", "http2-settings"}, f"nothing of the upgrade reaches the org, it saw {names}")
    at.raw_send = curl


def expect(at):
    """`Expect: 100-continue`: curl waits for the 100 before it sends; with a long patience, a missing one would be felt."""
    at.raw_send = with_options("--expect100-timeout", "30")
    scenario.revoke()
    body = json.dumps({"Name": "expect", "Description": "y" * 31_000}).encode()
    headers = {**scenario.JSON, "Expect": "100-continue"}
    at.send("POST", f"{scenario.DATA}/sobjects/Account", 201, headers=headers, body=body)
    scenario.check(b" 100 " in (FOLDER / "head").read_bytes().split(b"\n")[0], "100 Continue came")
    at.raw_send = curl


def raw_url(at):
    """`-g` and characters that a URL should not have arrive byte for byte."""
    at.raw_send = with_options("-g")
    names = "('a|b','[c]','d;e','f%7Cg')"
    target = f"//services/data/v60.0/query?q=SELECT+Id+FROM+Account+WHERE+Name+IN+{names}&x={{{scenario.CLIENT}}}|z"
    scenario.revoke()
    scenario.same(at.get(target).json()["totalSize"], 0, "rows")
    scenario.check(scenario.seen_by_org(target), "the target arrives byte for byte")
    at.raw_send = curl


if __name__ == "__main__":
    own = [("http2-prior-knowledge", http2), ("upgrade-h2c", upgrade), ("expect-100", expect), ("raw-url", raw_url)]
    scenario.run(curl, own)
