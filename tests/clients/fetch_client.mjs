// Node's own fetch: kept connections, `Sec-Fetch-Mode: cors`, gzip and deflate.
import common from './common.js';

const { BASE, DATA, ROWS, step, end, trace, revoke, leads, contacts, allContactNames, fileContent, assert } = common;
const CLIENT = process.env.CLIENT;
const COMPANY = `${CLIENT}, Inc.`;

async function send(method, target, status, { headers = {}, body, json, binary } = {}) {
  const options = { method, headers, body, redirect: 'manual', signal: AbortSignal.timeout(60_000) };
  if (json !== undefined) {
    options.headers = { 'Content-Type': 'application/json', ...headers };
    options.body = JSON.stringify(json);
  }
  if (body instanceof ReadableStream) options.duplex = 'half';
  const answer = await fetch(BASE + target, options);
  const content = Buffer.from(await answer.arrayBuffer());
  trace(method, answer.status, Object.fromEntries(answer.headers), content);
  assert.equal(answer.status, status, `${method} ${target.slice(0, 80)}: ${content.toString().slice(0, 200)}`);
  const text = binary ? undefined : content.toString();
  return { headers: answer.headers, content, text, json: () => JSON.parse(text) };
}

const get = (target, more) => send('GET', target, 200, more);
const soql = (text) => `${DATA}/query?` + new URLSearchParams({ q: text });

/** Lines of a CSV whose words are all quoted, as the org writes it. */
const csvRows = (text) => text.trimEnd().split('\n').map((line) => line.slice(1, -1).split('","').map((word) => word.replaceAll('""', '"')));

/** A stream without a length, in pieces. */
function streamed(text) {
  const bytes = Buffer.from(text);
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.subarray(at, (at += 16_000)));
    },
  });
}

async function finished(job) {
  for (let tries = 0; tries < 600; tries += 1) {
    const state = (await get(job)).json();
    if (!['UploadComplete', 'InProgress'].includes(state.state)) {
      assert.equal(state.state, 'JobComplete');
      return state;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error('the job did not end within 60 s');
}

let account;

await step('versions', async () => {
  await revoke();
  assert((await get('/services/data')).json().some((version) => version.version === '60.0'));
});
await step('describe', async () => {
  await revoke();
  const { fields } = (await get(`${DATA}/sobjects/Account/describe`)).json();
  assert(fields.some((field) => field.name === 'External_Id__c' && field.externalId));
});
await step('limits', async () => {
  await revoke();
  const answer = await get(`${DATA}/limits`);
  assert(answer.json().DailyApiRequests.Max > 0);
  assert.match(answer.headers.get('sforce-limit-info'), /^api-usage=/);
});
await step('insert', async () => {
  await revoke();
  const made = (await send('POST', `${DATA}/sobjects/Account`, 201, { json: { Name: `${CLIENT} é` } })).json();
  account = `${DATA}/sobjects/Account/${made.id}`;
  assert.equal((await get(soql(`SELECT Id FROM Account WHERE Name = '${CLIENT} é'`))).json().totalSize, 1, 'rows made by one insert');
});
await step('read', async () => {
  await revoke();
  assert.equal((await get(account)).json().Name, `${CLIENT} é`);
});
await step('update', async () => {
  await revoke();
  await send('PATCH', account, 204, { json: { Phone: '1' } });
  assert.equal((await get(`${account}?fields=Phone`)).json().Phone, '1');
});
await step('upsert', async () => {
  for (const [status, created] of [[201, true], [200, false]]) {
    await revoke();
    const target = `${DATA}/sobjects/Account/External_Id__c/${encodeURIComponent(`${CLIENT} é`)}`;
    assert.equal((await send('PATCH', target, status, { json: { Name: 'upserted' } })).json().created, created);
  }
});
await step('delete', async () => {
  await revoke();
  await send('DELETE', account, 204);
  await revoke();
  await send('GET', account, 404);
});
await step('composite', async () => {
  await revoke();
  const compositeRequest = [
    { method: 'POST', url: `${DATA}/sobjects/Account`, referenceId: 'a', body: { Name: 'composite' } },
    { method: 'POST', url: `${DATA}/sobjects/Contact`, referenceId: 'c', body: { LastName: 'composite', AccountId: '@{a.id}' } },
  ];
  const { compositeResponse } = (await send('POST', `${DATA}/composite`, 200, { json: { allOrNone: true, compositeRequest } })).json();
  assert.deepEqual(compositeResponse.map((part) => part.httpStatusCode), [201, 201]);
});
await step('collections', async () => {
  for (const part of [0, 1, 2]) {
    await revoke();
    const records = contacts(CLIENT, part).map((row) => ({ attributes: { type: 'Contact' }, ...row }));
    const results = (await send('POST', `${DATA}/composite/sobjects`, 200, { json: { allOrNone: true, records } })).json();
    assert(results.length === 200 && results.every((result) => result.success));
  }
});
await step('query', async () => {
  const names = [];
  let pages = 0;
  let target = soql(`SELECT LastName FROM Contact WHERE FirstName = '${CLIENT}' ORDER BY LastName`);
  while (target) {
    await revoke();
    const page = (await get(target, { headers: { 'Sforce-Query-Options': 'batchSize=200' } })).json();
    names.push(...page.records.map((row) => row.LastName));
    target = page.nextRecordsUrl;
    pages += 1;
  }
  assert.deepEqual(names, allContactNames(CLIENT));
  assert.equal(pages, 3);
});
await step('bulk-ingest', async () => {
  const rows = leads(COMPANY);
  await revoke();
  const made = await send('POST', `${DATA}/jobs/ingest`, 200, { json: { operation: 'insert', object: 'Lead', contentType: 'CSV', lineEnding: 'LF' } });
  const job = `${DATA}/jobs/ingest/${made.json().id}`;
  const csv = ['LastName,Company,Email', ...rows.map((row) => `${row.LastName},"${row.Company}",${row.Email}`), ''].join('\n');
  await revoke();
  await send('PUT', `${job}/batches`, 201, { headers: { 'Content-Type': 'text/csv' }, body: streamed(csv) });
  await revoke();
  await send('PATCH', job, 200, { json: { state: 'UploadComplete' } });
  const state = await finished(job);
  assert.deepEqual([state.numberRecordsProcessed, state.numberRecordsFailed], [ROWS, 0]);
  await revoke();
  const results = await get(`${job}/successfulResults`);
  assert.equal(results.headers.get('sforce-numberofrecords'), String(ROWS));
  const [header, ...lines] = csvRows(results.text);
  assert.deepEqual(header, ['sf__Id', 'sf__Created', 'LastName', 'Company', 'Email']);
  assert.equal(lines.length, ROWS);
  assert(lines.every(([id, created, ...row], n) => id.length === 18 && created === 'true' && row.join('|') === Object.values(rows[n]).join('|')));
});
await step('bulk-query', async () => {
  await revoke();
  const query = `SELECT LastName FROM Lead WHERE Company = '${COMPANY}'`;
  const job = `${DATA}/jobs/query/${(await send('POST', `${DATA}/jobs/query`, 200, { json: { operation: 'query', query } })).json().id}`;
  await finished(job);
  const names = [];
  let pages = 0;
  for (let locator = ''; locator !== 'null'; pages += 1) {
    await revoke();
    const page = await get(`${job}/results?maxRecords=20000${locator && `&locator=${locator}`}`);
    names.push(...csvRows(page.text).slice(1).map(([name]) => name));
    locator = page.headers.get('sforce-locator');
  }
  assert.equal(pages, 3);
  assert.deepEqual(names, leads(COMPANY).map((row) => row.LastName));
});
await step('file', async () => {
  const content = fileContent();
  const form = new FormData();
  form.append('entity_content', new Blob([JSON.stringify({ Title: CLIENT, PathOnClient: 'bytes.bin' })], { type: 'application/json' }));
  form.append('VersionData', new Blob([content]), 'bytes.bin');
  await revoke();
  const made = (await send('POST', `${DATA}/sobjects/ContentVersion`, 201, { body: form })).json();
  await revoke();
  const found = await get(`${DATA}/sobjects/ContentVersion/${made.id}/VersionData`, { binary: true });
  assert(found.content.equals(content), 'the file came back different');
});
await step('head', async () => {
  await revoke();
  const answer = await send('HEAD', `${DATA}/limits`, 200);
  assert.equal(answer.text, '');
  assert.match(answer.headers.get('content-type'), /^application\/json/);
});
await step('not-found', async () => {
  await revoke();
  const answer = await send('GET', `${DATA}/sobjects/Account/001000000000000AAA`, 404);
  assert.equal(answer.text, '[{"errorCode":"NOT_FOUND","message":"The requested resource does not exist"}]');
});
await step('bad-request', async () => {
  await revoke();
  const answer = await send('POST', `${DATA}/sobjects/Account`, 400, { json: {} });
  assert.equal(answer.json()[0].errorCode, 'REQUIRED_FIELD_MISSING');
  assert.equal(answer.headers.get('proxy-status'), null);
});
end();
