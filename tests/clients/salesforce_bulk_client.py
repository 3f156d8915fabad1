"""salesforce-bulk: Bulk API 1.0 with CSV, `X-SFDC-Session`, and a new connection for every call."""

import csv
import io
import time

import requests
from salesforce_bulk import CsvDictsAdapter, SalesforceBulk

import scenario
from scenario import CLIENT, check, revoke, same

steps = scenario.Steps()
scenario.watch_requests(steps)
bulk = SalesforceBulk(sessionId="placeholder", host=scenario.BASE, API_version="60.0")
COMPANY = scenario.company_of(CLIENT)
ROWS = [dict(zip(("LastName", "Company", "Email"), row)) for row in scenario.lead_rows(COMPANY)[:10_000]]
IDS = []


def wait(job, batch):
    """Its own pace is 10 s."""
    until = time.monotonic() + 60
    while not bulk.is_batch_done(batch, job):
        check(time.monotonic() < until, "the batch ends within 60 s")
        time.sleep(0.1)


def run(job, rows):
    """One batch of rows, sent in chunks, and its results."""
    revoke()
    batch = bulk.post_batch(job, CsvDictsAdapter(iter(rows)))
    revoke()
    wait(job, batch)
    revoke()
    return bulk.get_batch_results(batch, job)


def insert():
    revoke()
    job = bulk.create_insert_job("Lead", contentType="CSV", concurrency="Parallel")
    for part in (ROWS[:5_000], ROWS[5_000:]):
        results = run(job, part)
        check(len(results) == 5_000 and all(r.success == "true" and r.created == "true" for r in results), f"5,000 made, {results[:2]}")
        IDS.extend(result.id for result in results)
    revoke()
    bulk.close_job(job)
    revoke()
    status = bulk.job_status(job)
    same((status["state"], status["numberRecordsProcessed"], status["numberRecordsFailed"]), ("Closed", "10000", "0"), "the job")


def upsert():
    revoke()
    job = bulk.create_upsert_job("Account", external_id_name="External_Id__c")
    for created in ("true", "false"):
        rows = [{"External_Id__c": f"{CLIENT} {n}", "Name": f"row {n}"} for n in range(100)]
        results = run(job, rows)
        check(len(results) == 100 and all(r.success == "true" and r.created == created for r in results), f"created={created}, {results[:2]}")
    revoke()
    bulk.close_job(job)


def query():
    revoke()
    job = bulk.create_query_job("Lead", contentType="CSV")
    revoke()
    batch = bulk.query(job, f"SELECT Id, LastName FROM Lead WHERE Company = '{COMPANY}'")
    wait(job, batch)
    revoke()
    bulk.close_job(job)
    found = []
    for result in bulk.get_query_batch_result_ids(batch, job):
        revoke()
        content = bulk.get_query_batch_results(batch, result, job, chunk_size=65_536).read()
        found += csv.DictReader(io.StringIO(content.decode()))
    same([(row["Id"], row["LastName"]) for row in found], list(zip(IDS, (row["LastName"] for row in ROWS))), "the rows")


def failed_rows():
    revoke()
    job = bulk.create_insert_job("Account", contentType="CSV")
    results = run(job, [{"Name": "good", "Phone": ""}, {"Name": "", "Phone": "1"}])
    same([result.success for result in results], ["true", "false"], "the second has no name")
    check("REQUIRED_FIELD_MISSING" in results[1].error, f"the org's words: {results[1]}")
    bulk.abort_job(job)


def not_found():
    """A 400 of Bulk 1.0 that is not about the session."""
    revoke()
    answer = requests.get(bulk.endpoint + "/job/750000000000000AAA", headers=bulk.headers(), timeout=60)
    same(answer.status_code, 400, "the status")
    check(b"InvalidJob" in answer.content, f"the org's words: {answer.content}")


for step in (insert, upsert, query, failed_rows, not_found):
    steps.run(step.__name__.replace("_", "-"), step)
steps.end()
