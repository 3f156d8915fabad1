// jsforce, with nothing but the proxy's address: no login, no token, no refresh function.
'use strict';

const jsforce = require('jsforce');
const { BASE, DATA, ROWS, step, end, trace, revoke, leads, contacts, allContactNames, fileContent, assert } = require('./common.js');
const last = require('./jsforce_watch.js').watch('jsforce');

const CLIENT = process.env.CLIENT;
const COMPANY = `${CLIENT}, Inc.`;

const connection = new jsforce.Connection({ instanceUrl: BASE, version: '60.0', maxRequest: 10 });

/** The rejection, which must be the org's own error. */
async function refused(promise, code) {
  const error = await promise.then(() => assert.fail('expected an error'), (reason) => reason);
  assert.equal(error.errorCode, code, `${error.name}: ${error.message}`);
  return error;
}

async function main() {
  let id;
  await step('versions', async () => {
    await revoke();
    assert((await connection.request('/services/data')).some((version) => version.version === '60.0'));
  });
  await step('describe', async () => {
    await revoke();
    const { fields } = await connection.sobject('Account').describe();
    assert(fields.some((field) => field.name === 'External_Id__c' && field.externalId));
    assert((await connection.describeGlobal()).sobjects.some((object) => object.name === 'Account'));
  });
  await step('limits', async () => {
    await revoke();
    assert((await connection.limits()).DailyApiRequests.Max > 0);
    assert(connection.limitInfo.apiUsage.used > 0, 'Sforce-Limit-Info was read');
  });
  await step('insert', async () => {
    await revoke();
    ({ id } = await connection.sobject('Account').create({ Name: `${CLIENT} é` }));
    assert.equal(await connection.sobject('Account').count({ Name: `${CLIENT} é` }), 1, 'rows made by one insert');
  });
  await step('read', async () => {
    await revoke();
    assert.equal((await connection.sobject('Account').retrieve(id)).Name, `${CLIENT} é`);
  });
  await step('update', async () => {
    await revoke();
    assert((await connection.sobject('Account').update({ Id: id, Phone: '1' })).success);
    assert.equal((await connection.sobject('Account').retrieve(id)).Phone, '1');
  });
  await step('upsert', async () => {
    for (const created of [true, false]) {
      await revoke();
      const result = await connection.sobject('Account').upsert({ External_Id__c: `${CLIENT}|x`, Name: 'upserted' }, 'External_Id__c');
      assert.equal(result.created, created);
    }
  });
  await step('delete', async () => {
    await revoke();
    assert((await connection.sobject('Account').destroy(id)).success);
    await revoke();
    await refused(connection.sobject('Account').retrieve(id), 'NOT_FOUND');
  });
  await step('composite', async () => {
    await revoke();
    const body = {
      allOrNone: true,
      compositeRequest: [
        { method: 'POST', url: `${DATA}/sobjects/Account`, referenceId: 'a', body: { Name: 'composite' } },
        { method: 'POST', url: `${DATA}/sobjects/Contact`, referenceId: 'c', body: { LastName: 'composite', AccountId: '@{a.id}' } },
      ],
    };
    const { compositeResponse } = await connection.requestPost('/composite', body);
    assert.deepEqual(compositeResponse.map((part) => part.httpStatusCode), [201, 201]);
  });
  await step('collections', async () => {
    for (const part of [0, 1, 2]) {
      await revoke();
      const results = await connection.sobject('Contact').create(contacts(CLIENT, part), { allOrNone: true });
      assert(results.length === 200 && results.every((result) => result.success));
    }
  });
  await step('query', async () => {
    const headers = { 'Sforce-Query-Options': 'batchSize=200' };
    const names = [];
    let pages = 0;
    await revoke();
    const soql = `SELECT LastName FROM Contact WHERE FirstName = '${CLIENT}' ORDER BY LastName`;
    for (let page = await connection.query(soql, { headers }); ; page = await connection.queryMore(page.nextRecordsUrl, { headers })) {
      names.push(...page.records.map((row) => row.LastName));
      pages += 1;
      if (page.done) break;
      await revoke();
    }
    assert.deepEqual(names, allContactNames(CLIENT));
    assert.equal(pages, 3);
  });
  await step('bulk-ingest', async () => {
    const rows = leads(COMPANY);
    await revoke();
    const job = connection.bulk2.createJob({ operation: 'insert', object: 'Lead' });
    await job.open();
    await revoke();
    await job.uploadData(rows); // a stream without a length
    await revoke();
    await job.close();
    await job.poll(100, 60_000);
    await revoke();
    const { successfulResults, failedResults, unprocessedRecords } = await job.getAllResults(); // three at a time
    assert.deepEqual([failedResults.length, unprocessedRecords.length, successfulResults.length], [0, 0, ROWS]);
    const right = (row, n) => row.sf__Id.length === 18 && row.sf__Created === 'true' && row.LastName === rows[n].LastName && row.Company === COMPANY;
    assert(successfulResults.every(right), 'the rows');
  });
  await step('bulk-query', async () => {
    // Its own reader mixes the rows of several pages up (seen without a proxy too: it pipes the second page while the first
    // is still being read), so `bulk2.query` gets one page, and the three of all rows are read with `request`.
    const names = leads(COMPANY).map((row) => row.LastName);
    const soql = `SELECT LastName FROM Lead WHERE Company = '${COMPANY}'`;
    const patience = { pollInterval: 100, pollTimeout: 60_000 };
    await revoke();
    const first = await (await connection.bulk2.query(`${soql} LIMIT 15000`, patience)).toArray();
    assert.deepEqual(first.map((row) => row.LastName), names.slice(0, 15_000));

    await revoke();
    const { id: job } = await connection.requestPost('/jobs/query', { operation: 'query', query: soql });
    await connection.bulk2.job('query', { id: job }).poll(100, 60_000);
    const found = [];
    let pages = 0;
    for (let locator = ''; locator !== 'null'; pages += 1) {
      await revoke();
      const page = await connection.request(`${DATA}/jobs/query/${job}/results${locator && `?locator=${locator}`}`);
      found.push(...page.map((row) => row.LastName));
      locator = last.headers['sforce-locator'];
    }
    assert.equal(pages, 3);
    assert.deepEqual(found, names);
  });
  await step('file', async () => {
    const content = fileContent();
    await revoke();
    const made = await connection.sobject('ContentVersion').create({ PathOnClient: 'bytes.bin', VersionData: content.toString('base64') });
    assert(made.success);
    await revoke();
    const chunks = [];
    for await (const chunk of connection.sobject('ContentVersion').record(made.id).blob('VersionData')) chunks.push(chunk);
    assert(Buffer.concat(chunks).equals(content), 'the file came back different');
  });
  await step('head', async () => {
    await revoke();
    await connection.request({ method: 'HEAD', url: `${DATA}/limits` });
  });
  await step('not-found', async () => {
    await revoke();
    const error = await refused(connection.sobject('Account').retrieve('001000000000000AAA'), 'NOT_FOUND');
    assert.equal(error.message, 'The requested resource does not exist');
  });
  await step('bad-request', async () => {
    await revoke();
    await refused(connection.sobject('Account').create({}), 'REQUIRED_FIELD_MISSING');
    await revoke();
    await refused(connection.query('SELECT'), 'MALFORMED_QUERY');
  });
  end();
}

main();
