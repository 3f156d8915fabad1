"""simple-salesforce as it is published: it writes `https://` into every URL, so it calls the listener with TLS, whose authority
it is told by REQUESTS_CA_BUNDLE. No credential but the text `x`.
"""

import base64
import csv
import io
import os
import time
import urllib.parse
import zipfile

from simple_salesforce import Salesforce, SalesforceLogin
from simple_salesforce.exceptions import SalesforceMalformedRequest, SalesforceResourceNotFound

import scenario
from scenario import CLIENT, ROWS, check, revoke, same

os.environ["REQUESTS_CA_BUNDLE"] = os.environ["CA_FILE"]
PLACE = urllib.parse.urlsplit(os.environ["TLS_BASE"]).netloc
VERSION = "60.0"
COMPANY = scenario.company_of(CLIENT)
FIELDS = ("LastName", "Company", "Email")
PACKAGE = '<?xml version="1.0"?><Package xmlns="http://soap.sforce.com/2006/04/metadata"><types><members>{0}</members><name>ApexClass</name></types><version>60.0</version></Package>'

steps = scenario.Steps()
scenario.watch_requests(steps)
sf = Salesforce(instance=PLACE, session_id="x", version=VERSION)
state = {}


def refused(error, code, call, *words):
    try:
        call(*words)
    except error as caught:
        same(caught.content[0]["errorCode"], code, "the org's words")
        return
    raise AssertionError(f"expected {error.__name__}")


def versions():
    found = sf._call_salesforce("GET", f"https://{PLACE}/services/data").json()
    check(any(v["version"] == VERSION for v in found), f"{VERSION} among the versions")


def describe():
    found = sf.Account.describe()
    check(any(f["name"] == "External_Id__c" and f["externalId"] for f in found["fields"]), "the external id field")
    revoke()
    check(any(o["name"] == "Account" for o in sf.describe()["sobjects"]), "Account among the objects")


def limits():
    check(sf.limits()["DailyApiRequests"]["Max"] > 0, "DailyApiRequests")
    check(sf.api_usage["api-usage"].used > 0, "Sforce-Limit-Info was read")


def insert():
    state["id"] = sf.Account.create({"Name": f"{CLIENT} é"})["id"]
    same(sf.query(f"SELECT Id FROM Account WHERE Name = '{CLIENT} é'")["totalSize"], 1, "rows made by one insert")


def read():
    same(sf.Account.get(state["id"])["Name"], f"{CLIENT} é", "the name")


def update():
    same(sf.Account.update(state["id"], {"Phone": "1"}), 204, "the status")
    same(sf.Account.get(state["id"])["Phone"], "1", "the phone")


def upsert():
    for status in (201, 200):
        revoke()
        same(sf.Account.upsert(f"External_Id__c/{CLIENT}%20x", {"Name": "upserted"}), status, "the status")


def delete():
    same(sf.Account.delete(state["id"]), 204, "the status")
    revoke()
    refused(SalesforceResourceNotFound, "NOT_FOUND", sf.Account.get, state["id"])


def composite():
    calls = [
        {"method": "POST", "url": f"{scenario.DATA}/sobjects/Account", "referenceId": "a", "body": {"Name": "composite"}},
        {"method": "POST", "url": f"{scenario.DATA}/sobjects/Contact", "referenceId": "c", "body": {"LastName": "composite", "AccountId": "@{a.id}"}},
    ]
    answer = sf.restful("composite", method="POST", json={"allOrNone": True, "compositeRequest": calls})
    same([part["httpStatusCode"] for part in answer["compositeResponse"]], [201, 201], "statuses of the parts")


def collections():
    for part in range(3):
        revoke()
        records = [{"attributes": {"type": "Contact"}, "FirstName": CLIENT, "LastName": f"{part}-{n:03}"} for n in range(200)]
        answer = sf.restful("composite/sobjects", method="POST", json={"allOrNone": True, "records": records})
        check(len(answer) == 200 and all(r["success"] for r in answer), "200 successes")


def query():
    names = []
    headers = {"Sforce-Query-Options": "batchSize=200"}
    for row in sf.query_all_iter(f"SELECT LastName FROM Contact WHERE FirstName = '{CLIENT}' ORDER BY LastName", headers=headers):
        names.append(row["LastName"])
        if len(names) % 200 == 0:
            revoke()
    same(names, [f"{part}-{n:03}" for part in range(3) for n in range(200)], "the names")


def bulk_ingest():
    rows = [dict(zip(FIELDS, row)) for row in scenario.lead_rows(COMPANY)]
    (done,) = sf.bulk2.Lead.insert(records=rows, wait=0.1)
    same((done["numberRecordsProcessed"], done["numberRecordsFailed"]), (ROWS, 0), "rows")
    revoke()
    # It puts the columns in any order, and reads a text whose charset nobody tells as Latin-1.
    text = sf.bulk2.Lead.get_successful_records(done["job_id"]).encode("latin-1").decode()
    found = csv.DictReader(io.StringIO(text, newline=""))
    same([tuple(row[field] for field in FIELDS) for row in found if row["sf__Created"] == "true"], scenario.lead_rows(COMPANY), "the rows")


def bulk_query():
    found, pages = [], 0
    for page in sf.bulk2.Lead.query(f"SELECT LastName FROM Lead WHERE Company = '{COMPANY}'", max_records=20_000, wait=0.1):
        found += [row[0] for row in scenario.read_csv(page.encode())[1:]]
        pages += 1
        revoke()
    same((pages, found), (3, [row[0] for row in scenario.lead_rows(COMPANY)]), "pages and names")


def file():
    content = bytes(range(256)) * 5_000
    made = sf.ContentVersion.create({"PathOnClient": "bytes.bin", "VersionData": base64.b64encode(content).decode()})
    revoke()
    check(sf.ContentVersion.get_base64(made["id"], base64_field="VersionData") == content, "the file came back different")


def head():
    same(sf._call_salesforce("HEAD", f"{sf.base_url}limits").content, b"", "the body")


def not_found():
    refused(SalesforceResourceNotFound, "NOT_FOUND", sf.Account.get, "001000000000000AAA")


def bad_request():
    refused(SalesforceMalformedRequest, "REQUIRED_FIELD_MISSING", sf.Account.create, {})
    revoke()
    refused(SalesforceMalformedRequest, "MALFORMED_QUERY", sf.query, "SELECT")


def bulk1_ingest():
    rows = [{"LastName": f"one {n}", "Company": f"{COMPANY} 1"} for n in range(2_000)]
    # Batches are sent and watched by threads, all at once.
    results = sf.bulk.Lead.insert(rows, batch_size=500)
    check(len(results) == 2_000 and all(r["success"] and r["created"] for r in results), f"2,000 made, found {results[:1]}")
    revoke()
    rows = [{"External_Id__c": f"{CLIENT} one {n}", "Name": "x"} for n in range(200)]
    # Without waiting, which it does in steps of 5 s.
    sf.bulk.Account.upsert(rows, "External_Id__c", batch_size=100, bypass_results=True)
    made = f"SELECT COUNT() FROM Account WHERE External_Id__c LIKE '{CLIENT} one %'"
    end = time.monotonic() + 60
    while (found := sf.query(made)["totalSize"]) < 200:
        check(time.monotonic() < end, f"200 accounts within 60 s, found {found}")
        time.sleep(0.1)


def bulk1_query():
    found = sf.bulk.Lead.query(f"SELECT LastName FROM Lead WHERE Company = '{COMPANY} 1'")
    same([row["LastName"] for row in found], [f"one {n}" for n in range(2_000)], "the names")


def metadata():
    found = sf.mdapi.describe_metadata()
    check(any(o.xmlName == "CustomObject" for o in found.metadataObjects), "CustomObject among the types")
    revoke()
    asked = sf.mdapi._client.get_type("ns0:ListMetadataQuery")(type="CustomObject")
    check(any(o.fullName == "Account" for o in sf.mdapi.list_metadata([asked])), "Account among the objects")
    revoke()
    same(sf.mdapi.CustomObject.read("Account").label, "Account", "its label")


def metadata_deploy():
    """A class goes there in a zip, with the session in the body that simple-salesforce writes itself, and comes back."""
    name = f"Of_{''.join(c for c in CLIENT if c.isalnum())}"
    source = f"public class {name} {{}}"
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as pack:
        pack.writestr("package.xml", PACKAGE.format(name))
        pack.writestr(f"classes/{name}.cls", source)
        pack.writestr(f"classes/{name}.cls-meta.xml", '<?xml version="1.0"?><ApexClass xmlns="http://soap.sforce.com/2006/04/metadata"><apiVersion>60.0</apiVersion><status>Active</status></ApexClass>')
    deployment = sf.deploy(package, sandbox=False)
    same(until(lambda: sf.checkDeployStatus(deployment["asyncId"])["state"]), "Succeeded", "the deployment")
    revoke()
    retrieval, _ = sf.mdapi.retrieve("", unpackaged={"ApexClass": [name]}, single_package=True)
    same(until(lambda: sf.mdapi.check_retrieve_status(retrieval)[0]), "Succeeded", "the retrieval")
    revoke()
    _, _, _, content = sf.mdapi.retrieve_zip(retrieval)
    files = zipfile.ZipFile(io.BytesIO(content))
    (found,) = [file for file in files.namelist() if file.endswith(f"{name}.cls")]
    same(files.read(found).decode(), source, "the class")


def until(state):
    end = time.monotonic() + 60
    while (now := state()) not in ("Succeeded", "Failed"):
        check(time.monotonic() < end, f"it ends within 60 s, is {now}")
        revoke()
        time.sleep(0.05)
    return now


def login_soap():
    """Of its logins the one that takes an address; the others go to NAME.salesforce.com alone."""
    for base in (os.environ["TLS_BASE"], scenario.BASE):
        revoke()
        session, instance = SalesforceLogin(username="somebody@elsewhere.example", password="any", security_token="any", scratch_url=base, sf_version=VERSION)
        same(instance, urllib.parse.urlsplit(base).netloc, "the instance")
        check(session.split("!")[1].startswith("SFPROXY.placeholder"), "a placeholder is all that it gets")
    revoke()
    logged = Salesforce(instance=PLACE, session_id=session, version=VERSION)
    same(logged.query("SELECT Id FROM Account LIMIT 3")["totalSize"], 3, "rows")


for step in (versions, describe, limits, insert, read, update, upsert, delete, composite, collections, query, bulk_ingest,
             bulk_query, file, head, not_found, bad_request, bulk1_ingest, bulk1_query, metadata, metadata_deploy, login_soap):
    revoke()
    steps.run(step.__name__.replace("_", "-"), step)
steps.end()
