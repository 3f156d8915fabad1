// @salesforce/core, on which the CLI's plugins are built, with a placeholder for a token, in a home of its own.
'use strict';

const fs = require('fs');
const path = require('path');

process.env.HOME = fs.mkdtempSync(path.join(process.env.SCRATCH, 'core-'));
process.env.SF_DISABLE_TELEMETRY = 'true';
process.env.SF_DISABLE_LOG_FILE = 'true';
process.env.SF_USE_GENERIC_UNIX_KEYCHAIN = 'true';
process.env.STRAY_CALLS = path.join(process.env.HOME, 'stray-calls');
require('./only_loopback.cjs');

const { AuthInfo, Connection, Org } = require('@salesforce/core');
const { BASE, step, end, revoke, leads, assert } = require('./common.js');
require('./jsforce_watch.js').watch('@jsforce/jsforce-node');

const CLIENT = process.env.CLIENT;
const COMPANY = `${CLIENT}, Inc.`;
const PLACEHOLDER = '00D000000000000!placeholder';
let connection;

async function main() {
  await step('login', async () => {
    await revoke();
    const accessTokenOptions = { accessToken: PLACEHOLDER, instanceUrl: BASE, loginUrl: BASE };
    const authInfo = await AuthInfo.create({ accessTokenOptions });
    assert.equal(authInfo.getUsername(), 'integration@practice.example');
    await revoke();
    connection = await Connection.create({ authInfo });
    connection.version = '60.0';
    await revoke();
    const org = await Org.create({ connection });
    assert.match(org.getOrgId(), /^00DSB/);
    assert.equal(org.getConnection().accessToken, PLACEHOLDER, 'nothing else has taken its place');
  });
  await step('query', async () => {
    await revoke();
    const found = await connection.singleRecordQuery("SELECT Id, Name FROM Account WHERE Name = 'Practice Account 0003'");
    assert.equal(found.Name, 'Practice Account 0003');
    await revoke();
    assert.equal((await connection.autoFetchQuery('SELECT Id FROM Contact WHERE FirstName = \'Ada\'')).records.length, 25);
  });
  await step('record', async () => {
    await revoke();
    const { id } = await connection.sobject('Account').create({ Name: `${CLIENT} é` });
    assert.equal(await connection.sobject('Account').count({ Name: `${CLIENT} é` }), 1, 'rows made by one insert');
    await revoke();
    assert((await connection.sobject('Account').update({ Id: id, Phone: '1' })).success);
    await revoke();
    assert.equal((await connection.sobject('Account').retrieve(id)).Phone, '1');
    await revoke();
    assert((await connection.sobject('Account').destroy(id)).success);
    await revoke();
    await assert.rejects(connection.sobject('Account').retrieve(id), { errorCode: 'NOT_FOUND' });
  });
  await step('bulk-ingest', async () => {
    const rows = leads(COMPANY);
    await revoke();
    const options = { object: 'Lead', operation: 'insert', input: rows, pollInterval: 100, pollTimeout: 60_000 };
    const results = await connection.bulk2.loadAndWaitForResults(options);
    assert.equal(results.successfulResults.length, rows.length);
  });
  await step('bulk-query', async () => {
    await revoke();
    const patience = { pollInterval: 100, pollTimeout: 60_000 };
    const found = await (await connection.bulk2.query(`SELECT LastName FROM Lead WHERE Company = '${COMPANY}' LIMIT 15000`, patience)).toArray();
    assert.deepEqual(found.map((row) => row.LastName), leads(COMPANY).slice(0, 15_000).map((row) => row.LastName));
  });
  await step('soap', async () => {
    await revoke();
    assert.equal((await connection.soap.getUserInfo()).userName, 'integration@practice.example');
  });
  await step('metadata', async () => {
    await revoke();
    assert.equal((await connection.metadata.read('CustomObject', 'Account')).label, 'Account');
  });
  await step('only-loopback', () => assert(!fs.existsSync(process.env.STRAY_CALLS), 'it called others'));
  end();
}

main();
