// jsforce beyond REST: Bulk 1.0, SOAP, Metadata, Streaming, and its two logins. The story of the REST steps is in scenario.py.
'use strict';

const jsforce = require('jsforce');
const { StreamingExtension } = require('jsforce/api/streaming');
const { BASE, DATA, step, end, revoke, bulk1Leads, sameRows, assert } = require('./common.js');
const { Events } = require('./events.js');
require('./jsforce_watch.js').watch('jsforce');

const CLIENT = process.env.CLIENT;
const COMPANY = `${CLIENT}, Inc.`;
const VERSION = '60.0';
const PLACEHOLDER = /^00D\w{12}!SFPROXY\.placeholder\b/;

const connection = new jsforce.Connection({ instanceUrl: BASE, version: VERSION, maxRequest: 10 });
connection.bulk.pollInterval = 100;

/** A connection after its login calls the proxy with the placeholder it was given; by each of the ways in which a credential is sent. */
async function works(logged) {
  assert.equal(logged.instanceUrl, BASE);
  assert.match(logged.accessToken, PLACEHOLDER);
  for (let i = 0; i < 2; i += 1) {
    await revoke();
    assert.equal((await logged.query('SELECT Id FROM Account LIMIT 3')).records.length, 3);
    await revoke();
    assert.equal((await logged.soap.getUserInfo()).userId.slice(0, 15), logged.userInfo.id.slice(0, 15));
  }
  await revoke();
  // Once: its answer holds the org's own address, which is where jsforce would ask a second time.
  assert.equal((await logged.identity()).organization_id, logged.userInfo.organizationId);
}

// A batch that failed says so several times, and once to nobody; the step says it, too.
process.on('unhandledRejection', (error) => console.error(`${error.name}: ${error.message}`));

async function main() {
  await step('bulk1-ingest', async () => {
    const rows = bulk1Leads(COMPANY);
    await revoke();
    const job = connection.bulk.createJob('Lead', 'insert');
    const batches = [0, 1].map((part) => ({ batch: job.createBatch(), rows: rows.slice(part * 5_000, (part + 1) * 5_000) }));
    for (const { batch, rows: part } of batches) {
      await revoke();
      const queued = new Promise((resolve, reject) => batch.once('queue', resolve).on('error', reject));
      batch.execute(part);
      // While it is uploaded.
      await revoke();
      await queued;
      await revoke();
      batch.poll(100, 60_000);
      const results = await new Promise((resolve, reject) => batch.once('response', resolve).on('error', reject));
      assert.equal(results.length, 5_000);
      assert(results.every(({ id, success }) => success && id.length === 18));
    }
    await revoke();
    assert.equal((await job.close()).state, 'Closed');
    await revoke();
    const info = await job.check();
    assert.deepEqual([info.numberRecordsProcessed, info.numberRecordsFailed], ['10000', '0']);
  });
  await step('bulk1-query', async () => {
    await revoke();
    const found = await (await connection.bulk.query(`SELECT LastName, Email FROM Lead WHERE Company = '${COMPANY}'`)).toArray();
    sameRows(found.map(({ LastName, Email }) => [LastName, Email]), bulk1Leads(COMPANY).map(({ LastName, Email }) => [LastName, Email]));
  });
  await step('soap', async () => {
    await revoke();
    const { userName, organizationId } = await connection.soap.getUserInfo();
    assert.equal(userName, 'integration@practice.example');
    assert.match(organizationId, /^00D/);
    await revoke();
    assert(!Number.isNaN(Date.parse((await connection.soap.getServerTimestamp()).timestamp)));
    await revoke();
    const [made, refused] = await connection.soap.create([
      { type: 'Account', Name: `${CLIENT} <&> é` },
      { type: 'Account', Phone: '1' },
    ]);
    assert(made.success && !refused.success);
    await revoke();
    const [changed] = await connection.soap.update([{ type: 'Account', Id: made.id, Phone: '2' }]);
    assert(changed.success);
    const { Name, Phone } = await connection.sobject('Account').retrieve(made.id);
    assert.deepEqual([Name, Phone], [`${CLIENT} <&> é`, '2']);
    await revoke();
    assert((await connection.soap.delete([made.id]))[0].success);
  });
  await step('metadata', async () => {
    await revoke();
    const { metadataObjects } = await connection.metadata.describe(VERSION);
    assert(metadataObjects.some(({ xmlName }) => xmlName === 'CustomObject'));
    await revoke();
    const listed = await connection.metadata.list([{ type: 'CustomObject' }], VERSION);
    assert(listed.some(({ fullName }) => fullName === 'Account'));
    await revoke();
    const { fullName, label } = await connection.metadata.read('CustomObject', 'Account');
    assert.deepEqual([fullName, label], ['Account', 'Account']);
  });
  await step('streaming', async () => {
    const events = new Events((message) => connection.sobject('Practice_Event__e').create({ Message__c: message }));
    // What jsforce's documentation says to do: the extension hears of a dead session, and there is a new client, from the event
    // that was seen last.
    let subscription;
    const subscribe = () => {
      const failed = new StreamingExtension.AuthFailure(() => again(client));
      const client = connection.streaming.createClient([failed, new StreamingExtension.Replay(events.channel, events.replay)]);
      subscription = client;
      // What still comes by one that was given up comes again by the next.
      client.subscribe(events.channel, (message) => client === subscription && events.saw(message)).then(
        () => client === subscription && events.subscribed(),
        () => again(client),
      );
    };
    const again = (client) => {
      client.disconnect();
      if (client === subscription && !events.over) {
        subscription = undefined;
        events.resubscriptions += 1;
        setTimeout(subscribe, 20);
      }
    };
    subscribe();
    await events.exchange();
    subscription?.disconnect();
  });
  await step('login-soap', async () => {
    const logged = new jsforce.Connection({ loginUrl: BASE, version: VERSION });
    await revoke();
    await logged.login('somebody@elsewhere.example', 'any word');
    await works(logged);
    await revoke();
    await logged.logout();
    assert.equal((await connection.query('SELECT Id FROM Account LIMIT 3')).records.length, 3, 'a logout is of the placeholder alone');
  });
  await step('login-oauth2', async () => {
    const oauth2 = { loginUrl: BASE, clientId: 'any', clientSecret: 'any' };
    const byPassword = new jsforce.Connection({ oauth2, version: VERSION });
    await revoke();
    await byPassword.loginByOAuth2('somebody@elsewhere.example', 'any word');
    await works(byPassword);
    const byCode = new jsforce.Connection({ oauth2: { ...oauth2, redirectUri: 'http://localhost:1/callback' }, version: VERSION });
    await revoke();
    await byCode.authorize('any-code');
    await works(byCode);
    await revoke();
    await byCode.oauth2.refreshToken(byCode.refreshToken);
    await byCode.logoutByOAuth2(true);
    assert.equal((await byPassword.query('SELECT Id FROM Account LIMIT 3')).records.length, 3);
  });
  end();
}

main();
