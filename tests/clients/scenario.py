"""What every client does, told once for the Python ones.

A client is a function `send(method, target, headers, body) -> Answer`; `body` is None, bytes, or an iterator of bytes,
which the client sends without telling a length. Steps print one line each, which the runner reads.

Environment: CLIENT is its name, BASE the proxy, CONTROL takes `/control/…` of the practice org, TRACE is a file for every
answer seen, SCRATCH a folder.
"""

import csv
import io
import json
import os
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass

CLIENT = os.environ["CLIENT"]
BASE = os.environ["BASE"]
CONTROL = os.environ["CONTROL"]
DATA = "/services/data/v60.0"
ROWS = 50_000
JSON = {"Content-Type": "application/json"}
NOT_FOUND = b'[{"errorCode":"NOT_FOUND","message":"The requested resource does not exist"}]'


@dataclass
class Answer:
    status: int
    headers: dict  # names in lower case
    body: bytes

    def json(self):
        return json.loads(self.body)


def control(method, path):
    """The practice org's controls, without the proxy and without the client under test."""
    request = urllib.request.Request(CONTROL + path, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def seen_by_org(target):
    """The requests with that target, oldest first; others may be calling too."""
    return [request for request in control("GET", "/control/requests?last=500") if request["target"] == target]


def revoke():
    """Ends every session of the org, now."""
    control("POST", "/control/revoke")


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def same(found, expected, what):
    check(found == expected, f"{what}: expected {str(expected)[:200]}, found {str(found)[:300]}")


class Steps:
    """Runs steps, prints one line for each, and remembers whether one failed."""

    def __init__(self):
        self.failed = False
        self.trace_file = open(os.environ["TRACE"], "ab")

    def trace(self, method, answer):
        """Every answer's head and the start of its body, for the canary."""
        head = "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
        self.trace_file.write(f"{method} {answer.status}\n{head}\n".encode() + answer.body[:4096] + b"\n\n")
        self.trace_file.flush()
        check(answer.status != 401 and answer.status < 500, f"{method}: the client saw {answer.status}: {answer.body[:300]!r}")

    def report(self, name, started, error=None):
        took = round((time.monotonic() - started) * 1000)
        if error is None:
            print(f"STEP ok {name} {took}", flush=True)
        else:
            self.failed = True
            text = f"{type(error).__name__}: {error}".replace("\n", " ")[:600]
            print(f"STEP fail {name} {took} {text}", flush=True)

    def run(self, name, step, *arguments):
        started = time.monotonic()
        try:
            step(*arguments)
            self.report(name, started)
        except Exception as error:
            self.report(name, started, error)

    def end(self):
        sys.exit(1 if self.failed else 0)


def watch_requests(steps):
    """Sees every answer that a library on top of `requests` gets, whichever session it makes; nothing else is changed."""
    import requests

    send = requests.Session.send

    def watched(session, request, **more):
        answer = send(session, request, **more)
        names = {name.lower(): value for name, value in answer.headers.items()}
        steps.trace(request.method, Answer(answer.status_code, names, answer.content))
        return answer

    requests.Session.send = watched


def lead_rows(company):
    """The rows of the bulk job: an é and a quoted comma among them."""
    return [(f"Lead {n:05} é", company, f"{n}@example.com") for n in range(ROWS)]


def lead_csv(company):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("LastName", "Company", "Email"))
    writer.writerows(lead_rows(company))
    return out.getvalue().encode()


def company_of(client):
    return f"{client}, Inc."


def in_chunks(data, size=16_000):
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read_csv(body):
    return list(csv.reader(io.StringIO(body.decode(), newline="")))


def is_all_leads(rows, company, created):
    """Rows of successfulResults: sf__Id, sf__Created, then as sent."""
    same(rows[0], ["sf__Id", "sf__Created", "LastName", "Company", "Email"], "the header")
    same(len(rows) - 1, ROWS, "rows")
    same([tuple(row[2:]) for row in rows[1:]], lead_rows(company), "the rows")
    check(all(row[1] == created and len(row[0]) == 18 for row in rows[1:]), "an id and 'created' in each row")


class Scenario:
    def __init__(self, send):
        self.client = CLIENT
        self.steps = Steps()
        self.raw_send = send
        self.account = None

    def send(self, method, target, status, headers=None, body=None):
        if isinstance(body, (dict, list)):
            headers, body = {**JSON, **(headers or {})}, json.dumps(body).encode()
        answer = self.raw_send(method, target, headers or {}, body)
        self.steps.trace(method, answer)
        same(answer.status, status, f"status of {method} {target[:80]} ({answer.body[:200]!r})")
        return answer

    def get(self, target, **more):
        return self.send("GET", target, 200, **more)

    def all(self):
        for name in (
            "versions describe limits insert read update upsert delete composite collections query "
            "bulk-ingest bulk-query file head not-found bad-request"
        ).split():
            self.steps.run(name, getattr(self, name.replace("-", "_")))

    def versions(self):
        revoke()
        versions = self.get("/services/data").json()
        check(any(v["version"] == "60.0" for v in versions), "60.0 among the versions")

    def describe(self):
        revoke()
        answer = self.get(f"{DATA}/sobjects/Account/describe/").json()
        check(any(f["name"] == "External_Id__c" and f["externalId"] for f in answer["fields"]), "the external id field")

    def limits(self):
        revoke()
        answer = self.get(f"{DATA}/limits")
        check("Max" in answer.json()["DailyApiRequests"], "DailyApiRequests")
        check(answer.headers["sforce-limit-info"].startswith("api-usage="), "Sforce-Limit-Info")

    def insert(self):
        revoke()
        answer = self.send("POST", f"{DATA}/sobjects/Account", 201, body={"Name": f"{self.client} é"})
        self.account = f"{DATA}/sobjects/Account/{answer.json()['id']}"
        same(answer.headers["location"], self.account, "Location")
        found = self.get(f"{DATA}/query?" + urllib.parse.urlencode({"q": f"SELECT Id FROM Account WHERE Name = '{self.client} é'"}))
        same(found.json()["totalSize"], 1, "rows made by one insert")

    def read(self):
        revoke()
        same(self.get(self.account).json()["Name"], f"{self.client} é", "the name")

    def update(self):
        revoke()
        same(self.send("PATCH", self.account, 204, body={"Phone": "1"}).body, b"", "the body of a 204")
        same(self.get(f"{self.account}?fields=Phone").json()["Phone"], "1", "the phone")

    def upsert(self):
        target = f"{DATA}/sobjects/Account/External_Id__c/{self.client}%20%C3%A9"
        for status, created in ((201, True), (200, False)):
            revoke()
            same(self.send("PATCH", target, status, body={"Name": "upserted"}).json()["created"], created, "created")

    def delete(self):
        revoke()
        self.send("DELETE", self.account, 204)
        revoke()
        self.send("GET", self.account, 404)

    def composite(self):
        revoke()
        calls = [
            {"method": "POST", "url": f"{DATA}/sobjects/Account", "referenceId": "a", "body": {"Name": "composite"}},
            {"method": "POST", "url": f"{DATA}/sobjects/Contact", "referenceId": "c",
             "body": {"LastName": "composite", "AccountId": "@{a.id}"}},
        ]
        answer = self.send("POST", f"{DATA}/composite", 200, body={"allOrNone": True, "compositeRequest": calls})
        parts = answer.json()["compositeResponse"]
        same([part["httpStatusCode"] for part in parts], [201, 201], "statuses of the parts")
        row = self.get(f"{DATA}/sobjects/Contact/{parts[1]['body']['id']}").json()
        same(row["AccountId"], parts[0]["body"]["id"], "the contact's account")

    def collections(self):
        for part in range(3):
            revoke()
            records = [
                {"attributes": {"type": "Contact"}, "FirstName": self.client, "LastName": f"{part}-{n:03}"} for n in range(200)
            ]
            answer = self.send("POST", f"{DATA}/composite/sobjects", 200, body={"allOrNone": True, "records": records})
            results = answer.json()
            check(len(results) == 200 and all(r["success"] for r in results), "200 successes")

    def query(self):
        """The 600 contacts of `collections` in pages of 200, a session ended before each."""
        soql = f"SELECT LastName FROM Contact WHERE FirstName = '{self.client}' ORDER BY LastName"
        target = f"{DATA}/query?" + urllib.parse.urlencode({"q": soql})
        names, pages = [], 0
        while target:
            revoke()
            page = self.get(target, headers={"Sforce-Query-Options": "batchSize=200"}).json()
            names += [row["LastName"] for row in page["records"]]
            pages += 1
            target = page.get("nextRecordsUrl")
        same(names, [f"{part}-{n:03}" for part in range(3) for n in range(200)], "the names")
        same(pages, 3, "pages")

    def bulk_ingest(self):
        company, jobs = company_of(self.client), f"{DATA}/jobs/ingest"
        revoke()
        job = self.send("POST", jobs, 200, body={"operation": "insert", "object": "Lead", "contentType": "CSV", "lineEnding": "LF"})
        job = f"{jobs}/{job.json()['id']}"
        revoke()
        self.upload(f"{job}/batches", lead_csv(company))
        revoke()
        self.send("PATCH", job, 200, body={"state": "UploadComplete"})
        state = self.finished(job)
        same((state["numberRecordsProcessed"], state["numberRecordsFailed"]), (ROWS, 0), "rows processed and failed")
        revoke()
        results = self.get(f"{job}/successfulResults/")
        same(results.headers["sforce-numberofrecords"], str(ROWS), "Sforce-NumberOfRecords")
        is_all_leads(read_csv(results.body), company, "true")
        same(len(read_csv(self.get(f"{job}/failedResults/").body)), 1, "lines of failed results")

    def upload(self, target, data):
        """Without a length: the proxy cannot know how much it has to keep."""
        self.send("PUT", target, 201, headers={"Content-Type": "text/csv"}, body=in_chunks(data))

    def finished(self, job):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            state = self.get(job).json()
            if state["state"] not in ("UploadComplete", "InProgress"):
                same(state["state"], "JobComplete", "the job's end")
                return state
            time.sleep(0.1)
        raise TimeoutError("the job did not end within 60 s")

    def bulk_query(self):
        company, jobs = company_of(self.client), f"{DATA}/jobs/query"
        soql = f"SELECT LastName FROM Lead WHERE Company = '{company}'"
        revoke()
        job = self.send("POST", jobs, 200, body={"operation": "query", "query": soql})
        job = f"{jobs}/{job.json()['id']}"
        self.finished(job)
        names, locator, pages = [], "", 0
        while locator != "null":
            revoke()
            page = self.get(f"{job}/results?maxRecords=20000" + (f"&locator={locator}" if locator else ""))
            rows = read_csv(page.body)[1:]
            same(page.headers["sforce-numberofrecords"], str(len(rows)), "Sforce-NumberOfRecords")
            names += [row[0] for row in rows]
            locator, pages = page.headers["sforce-locator"], pages + 1
        same(names, [row[0] for row in lead_rows(company)], "the names")
        same(pages, 3, "pages")

    def file(self):
        """Every byte value, longer than a megabyte, as multipart; the download compared byte by byte."""
        content = bytes(range(256)) * 5_000
        fields = json.dumps({"Title": self.client, "PathOnClient": "bytes.bin"}).encode()
        line = b"--part-of-a-file"
        body = b"\r\n".join((
            line, b'Content-Disposition: form-data; name="entity_content"', b"Content-Type: application/json", b"", fields,
            line, b'Content-Disposition: form-data; name="VersionData"; filename="bytes.bin"',
            b"Content-Type: application/octet-stream", b"", content,
            line + b"--", b"",
        ))
        revoke()
        kind = {"Content-Type": "multipart/form-data; boundary=part-of-a-file"}
        made = self.send("POST", f"{DATA}/sobjects/ContentVersion", 201, headers=kind, body=body)
        revoke()
        found = self.get(f"{DATA}/sobjects/ContentVersion/{made.json()['id']}/VersionData")
        check(found.body == content, f"the file came back different ({len(found.body)} bytes)")

    def head(self):
        revoke()
        answer = self.send("HEAD", f"{DATA}/limits", 200)
        same(answer.body, b"", "the body")
        check(answer.headers["content-type"].startswith("application/json"), "Content-Type")

    def not_found(self):
        revoke()
        same(self.send("GET", f"{DATA}/sobjects/Account/001000000000000AAA", 404).body, NOT_FOUND, "the org's words")

    def bad_request(self):
        revoke()
        answer = self.send("POST", f"{DATA}/sobjects/Account", 400, body={})
        same(answer.json()[0]["errorCode"], "REQUIRED_FIELD_MISSING", "the org's words")
        answer = self.send("GET", f"{DATA}/query?q=SELECT", 400)
        same(answer.json()[0]["errorCode"], "MALFORMED_QUERY", "the org's words")
        check("proxy-status" not in answer.headers, "no Proxy-Status: it is not the proxy's answer")


def run(send, extra=()):
    """All steps, then the client's own: pairs of a name and a function of the scenario."""
    scenario = Scenario(send)
    scenario.all()
    for name, step in extra:
        scenario.steps.run(name, step, scenario)
    scenario.steps.end()
