"""aiosalesforce: it takes no address but https://NAME.my.salesforce.com, so a transport reroutes; and a placeholder for a token."""

import asyncio
import base64
import json
import time

import aiosalesforce
import httpx
from aiosalesforce.auth.base import Auth

import scenario
from scenario import DATA, ROWS, check, revoke, same

CLIENT = scenario.CLIENT


class Rerouted(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request):
        base = httpx.URL(scenario.BASE)
        request.url = request.url.copy_with(scheme=base.scheme, host=base.host, port=base.port)
        request.headers["Host"] = base.netloc.decode()
        return await super().handle_async_request(request)


class Placeholder(Auth):
    """What must not happen is that a 401 makes it refresh."""

    async def _acquire_new_access_token(self, client):
        return "placeholder"

    async def _refresh_access_token(self, client):
        raise AssertionError("the client saw a 401")


async def steps(salesforce, raw, steps):
    """The client's own calls where it has them, else its `request`."""
    host, state = salesforce.base_url, {}

    async def versions():
        found = (await salesforce.request("GET", f"{host}/services/data")).json()
        check(any(v["version"] == "60.0" for v in found), "60.0 among the versions")

    async def describe():
        found = (await salesforce.request("GET", f"{host}{DATA}/sobjects/Account/describe")).json()
        check(any(f["name"] == "External_Id__c" and f["externalId"] for f in found["fields"]), "the external id field")

    async def limits():
        check((await salesforce.get_limits())["DailyApiRequests"]["Max"] > 0, "DailyApiRequests")

    async def insert():
        state["id"] = await salesforce.sobject.create("Account", {"Name": f"{CLIENT} é"})
        found = [row async for row in salesforce.query(f"SELECT Id FROM Account WHERE Name = '{CLIENT} é'")]
        same(len(found), 1, "rows made by one insert")

    async def read():
        same((await salesforce.sobject.get("Account", state["id"]))["Name"], f"{CLIENT} é", "the name")

    async def update():
        await salesforce.sobject.update("Account", state["id"], {"Phone": "1"})
        same((await salesforce.sobject.get("Account", state["id"], fields=["Phone"]))["Phone"], "1", "the phone")

    async def upsert():
        for created in (True, False):
            revoke()
            answer = await salesforce.sobject.upsert("Account", f"{CLIENT} x", external_id_field="External_Id__c", data={"Name": "upserted"})
            same(answer.created, created, "created")

    async def delete():
        await salesforce.sobject.delete("Account", state["id"])
        revoke()
        await refused(salesforce.sobject.get("Account", state["id"]), 404, "NOT_FOUND")

    async def composite():
        async with salesforce.composite(all_or_none=True) as batch:
            account = batch.sobject.create("Account", {"Name": "composite"})
            contact = batch.sobject.create("Contact", {"LastName": "composite", "AccountId": str(account.reference.id)})
        same((await salesforce.sobject.get("Contact", contact.id))["AccountId"], account.id, "the contact's account")

    async def collections():
        for part in range(3):
            revoke()
            records = [{"attributes": {"type": "Contact"}, "FirstName": CLIENT, "LastName": f"{part}-{n:03}"} for n in range(200)]
            body = json.dumps({"allOrNone": True, "records": records})
            answer = await salesforce.request("POST", f"{host}{DATA}/composite/sobjects", content=body, headers=scenario.JSON)
            check(all(r["success"] for r in answer.json()), "200 successes")

    async def query():
        """It cannot ask for small pages: the header is set under it."""
        raw.headers["Sforce-Query-Options"] = "batchSize=200"
        names = []
        async for row in salesforce.query(f"SELECT LastName FROM Contact WHERE FirstName = '{CLIENT}' ORDER BY LastName"):
            names.append(row["LastName"])
            if len(names) % 200 == 0:
                revoke()
        del raw.headers["Sforce-Query-Options"]
        same(names, [f"{part}-{n:03}" for part in range(3) for n in range(200)], "the names")

    async def bulk_ingest():
        company = scenario.company_of(CLIENT)
        rows = [dict(zip(("LastName", "Company", "Email"), row)) for row in scenario.lead_rows(company)]
        fields = ("LastName", "Company", "Email")
        operation = salesforce.bulk_v2.ingest.perform_operation("insert", "Lead", rows, fieldnames=fields, polling_interval=0.1)
        results = [result async for result in operation]
        same(len(results), 1, "jobs")
        found = results[0]
        same((len(found.successful_results), len(found.failed_results), len(found.unprocessed_records)), (ROWS, 0, 0), "rows")
        same([row["LastName"] for row in found.successful_results], [row["LastName"] for row in rows], "the names")

    async def bulk_query():
        company = scenario.company_of(CLIENT)
        soql = f"SELECT LastName FROM Lead WHERE Company = '{company}'"
        body = json.dumps({"operation": "query", "query": soql})
        made = await salesforce.request("POST", f"{host}{DATA}/jobs/query", content=body, headers=scenario.JSON)
        job, until = f"{host}{DATA}/jobs/query/{made.json()['id']}", time.monotonic() + 60
        while (await salesforce.request("GET", job)).json()["state"] != "JobComplete":
            check(time.monotonic() < until, "the job ends within 60 s")
            await asyncio.sleep(0.1)
        names, locator, pages = [], "", 0
        while locator != "null":
            revoke()
            page = await salesforce.request("GET", f"{job}/results", params={"maxRecords": 20_000} | ({"locator": locator} if locator else {}))
            names += [row[0] for row in scenario.read_csv(page.content)[1:]]
            locator, pages = page.headers["sforce-locator"], pages + 1
        same((pages, names), (3, [row[0] for row in scenario.lead_rows(company)]), "pages and names")

    async def file():
        content = bytes(range(256)) * 5_000
        coded = base64.b64encode(content).decode()
        made = await salesforce.sobject.create("ContentVersion", {"PathOnClient": "bytes.bin", "VersionData": coded})
        revoke()
        found = await salesforce.request("GET", f"{host}{DATA}/sobjects/ContentVersion/{made}/VersionData")
        check(found.content == content, "the file came back different")

    async def head():
        same((await salesforce.request("HEAD", f"{host}{DATA}/limits")).content, b"", "the body")

    async def not_found():
        error = await refused(salesforce.sobject.get("Account", "001000000000000AAA"), 404, "NOT_FOUND")
        same(error.response.content, scenario.NOT_FOUND, "the org's words")

    async def bad_request():
        await refused(salesforce.sobject.create("Account", {}), 400, "REQUIRED_FIELD_MISSING")

    async def refused(call, status, code):
        try:
            await call
        except aiosalesforce.exceptions.SalesforceError as error:
            same((error.response.status_code, error.response.json()[0]["errorCode"]), (status, code), "the refusal")
            return error
        raise AssertionError("expected an error")

    for step in (versions, describe, limits, insert, read, update, upsert, delete, composite, collections, query,
                 bulk_ingest, bulk_query, file, head, not_found, bad_request):
        revoke()
        started = time.monotonic()
        try:
            await step()
            steps.report(step.__name__.replace("_", "-"), started)
        except Exception as error:
            steps.report(step.__name__.replace("_", "-"), started, error)


async def main():
    seen = scenario.Steps()

    async def watch(response):
        await response.aread()
        seen.trace(response.request.method, scenario.Answer(response.status_code, dict(response.headers), response.content))

    async with httpx.AsyncClient(transport=Rerouted(), event_hooks={"response": [watch]}, timeout=60) as client:
        salesforce = aiosalesforce.Salesforce(client, "https://practice.my.salesforce.com", Placeholder(), version="60.0")
        await steps(salesforce, client, seen)
    seen.end()


if __name__ == "__main__":
    asyncio.run(main())
