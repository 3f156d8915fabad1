"""The Salesforce CLI, with a placeholder for a token, in a home of its own. It runs with Node 22, from a package.

It sends telemetry and looks for updates unless it is told not to; whether it obeys is a step of its own (`only-loopback`).
"""

import json
import os
import pathlib
import subprocess
import tempfile
import time

import scenario
from scenario import CLIENT, DATA, check, revoke, same

MODULES = pathlib.Path(os.environ["TOOLS"]) / "node_modules"
NODE = MODULES / ".bin/node"
HERE = pathlib.Path(__file__).resolve().parent
HOME = pathlib.Path(tempfile.mkdtemp(prefix="sf-", dir=os.environ["SCRATCH"]))
STRAY = HOME / "stray-calls"
PLACEHOLDER = "00D000000000000!placeholder"
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": str(HOME),
    "SF_DISABLE_TELEMETRY": "true",
    "SF_DISABLE_AUTOUPDATE": "true",
    "SF_SKIP_NEW_VERSION_CHECK": "true",
    "SF_HIDE_RELEASE_NOTES": "true",
    "SF_USE_GENERIC_UNIX_KEYCHAIN": "true",
    "NODE_OPTIONS": f"--require {HERE / 'only_loopback.cjs'}",
    "STRAY_CALLS": str(STRAY),
}
steps = scenario.Steps()


def sf(*words, code=0, **more):
    """The output of one command, which the canary gets too."""
    command = [NODE, MODULES / "@salesforce/cli/bin/run.js", *words]
    done = subprocess.run(command, env=ENVIRONMENT | more, cwd=HOME, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    steps.trace("sf", scenario.Answer(done.returncode, {}, done.stdout + done.stderr))
    check(done.returncode == code, f"sf {' '.join(words[:3])} exited with {done.returncode}: {(done.stdout + done.stderr).decode()[:1500]}")
    return done.stdout.decode()


def result(*words):
    return json.loads(sf(*words, "--json"))["result"]


def stray_calls():
    """What must not be is seen when it is: a call to an address of nobody (RFC 5737), and a name of nobody (RFC 2606)."""
    for url in ("http://192.0.2.1/", "http://telemetry.invalid/"):
        STRAY.unlink(missing_ok=True)
        subprocess.run([NODE, "-e", f"fetch('{url}').catch(() => {{}})"], env=ENVIRONMENT, timeout=30, check=True)
        check(STRAY.exists(), f"a call to {url} is seen")
    STRAY.unlink()


def login():
    """First userinfo, where a dead session is told with 403; then the User's row."""
    revoke()
    words = ("org", "login", "access-token", "--instance-url", scenario.BASE, "--no-prompt", "--alias", "practice", "--set-default", "--json")
    made = json.loads(sf(*words, SF_ACCESS_TOKEN=PLACEHOLDER))["result"]
    same(made["username"], "integration@practice.example", "whose token the proxy has")
    same(made["instanceUrl"].rstrip("/"), scenario.BASE, "where it calls")


def display():
    revoke()
    shown = result("org", "display")
    same(shown["connectedStatus"], "Connected", "the status")
    same(result("org", "auth", "show-access-token", "--no-prompt")["accessToken"], PLACEHOLDER, "all that it knows of a token")


def query():
    revoke()
    found = result("data", "query", "--query", "SELECT Id, Name FROM Account WHERE Name LIKE 'Practice Account 000%'")
    same([row["Name"] for row in found["records"]], [f"Practice Account {n:04}" for n in range(10)], "the names")
    revoke()
    shown = sf("data", "query", "--query", "SELECT Id, Account.Name FROM Contact WHERE LastName = 'Practice 0003'", "--result-format", "csv")
    lines = shown.splitlines()
    same(lines[0], "Id,Account.Name", "the header")
    check(len(lines) == 3 and all(line.endswith(",Practice Account 0003") for line in lines[1:]), f"two rows, found {lines}")


def record():
    revoke()
    made = result("data", "create", "record", "--sobject", "Account", "--values", f"Name='{CLIENT} é'")
    same(len(result("data", "query", "--query", f"SELECT Id FROM Account WHERE Name = '{CLIENT} é'")["records"]), 1, "rows made by one insert")
    one = ("record", "--sobject", "Account", "--record-id", made["id"])
    revoke()
    result("data", "update", *one, "--values", "Phone=1")
    revoke()
    same(result("data", "get", *one)["Phone"], "1", "the phone")
    revoke()
    result("data", "delete", *one)
    revoke()
    sf("data", "get", *one, "--json", code=1)


def rest():
    revoke()
    limits = json.loads(sf("api", "request", "rest", f"{DATA}/limits"))
    check("Max" in limits["DailyApiRequests"], "DailyApiRequests")
    revoke()
    body = json.dumps({"Name": f"{CLIENT} rest", "Description": "x" * 30_000})
    made = json.loads(sf("api", "request", "rest", f"{DATA}/sobjects/Account", "--method", "POST", "--body", body))
    check(made["success"], "a row was made")


def bulk():
    """Bulk 2.0: rows from a file, then all of them to a file."""
    company = scenario.company_of(CLIENT)
    rows = HOME / "leads.csv"
    rows.write_bytes(scenario.lead_csv(company))
    revoke()
    done = result("data", "import", "bulk", "--sobject", "Lead", "--file", str(rows), "--line-ending", "LF", "--wait", "1")
    same((done["processedRecords"], done["successfulRecords"], done["failedRecords"]), (scenario.ROWS, scenario.ROWS, 0), "rows")
    revoke()
    out = HOME / "out.csv"
    soql = f"SELECT LastName, Company, Email FROM Lead WHERE Company = '{company}'"
    done = result("data", "export", "bulk", "--query", soql, "--output-file", str(out), "--wait", "1")
    same(done["totalSize"], scenario.ROWS, "rows exported")
    same([tuple(row) for row in scenario.read_csv(out.read_bytes())[1:]], scenario.lead_rows(company), "the rows")


def metadata():
    """The Metadata API, over SOAP."""
    revoke()
    listed = result("org", "list", "metadata", "--metadata-type", "CustomObject")
    check(any(one["fullName"] == "Account" for one in listed), "Account among the objects")


def not_found():
    revoke()
    refused = json.loads(sf("data", "get", "record", "--sobject", "Account", "--record-id", "001000000000000AAA", "--json", code=1))
    same(refused["message"], "The requested resource does not exist", "the org's words")


def only_loopback():
    check(not STRAY.exists(), f"it called {STRAY.exists() and STRAY.read_text()}")


for step in (stray_calls, login, display, query, record, rest, bulk, metadata, not_found, only_loopback):
    steps.run(step.__name__.replace("_", "-"), step)
steps.end()
