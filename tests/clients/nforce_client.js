// nforce: an `oauth` object with any token goes along with each call.
'use strict';

const nforce = require('nforce');
const { BASE, step, end, trace, revoke, assert } = require('./common.js');

const CLIENT = process.env.CLIENT;
const oauth = { access_token: 'placeholder', instance_url: BASE };
const connect = (more = {}) => nforce.createConnection({
  clientId: 'any',
  clientSecret: 'any',
  redirectUri: 'http://localhost:1/callback',
  loginUri: `${BASE}/services/oauth2/token`,
  apiVersion: 'v60.0',
  ...more,
});
const org = connect();
// It says what it got by what it returns; that is what the canary sees.
const told = (answer) => (trace('nforce', 200, {}, JSON.stringify(answer) ?? ''), answer);
const account = (values) => nforce.createSObject('Account', values);

async function main() {
  let id;
  await step('insert', async () => {
    await revoke();
    ({ id } = told(await org.insert({ oauth, sobject: account({ Name: `${CLIENT} é` }) })));
    const { totalSize } = told(await org.query({ oauth, query: `SELECT Id FROM Account WHERE Name = '${CLIENT} é'` }));
    assert.equal(totalSize, 1, 'rows made by one insert');
  });
  await step('query', async () => {
    await revoke();
    const { records } = told(await org.query({ oauth, query: "SELECT Id, Name FROM Account WHERE Name LIKE 'Practice Account 000%'" }));
    assert.deepEqual(records.map((row) => row.get('name')), Array.from({ length: 10 }, (_, n) => `Practice Account 000${n}`));
  });
  await step('update', async () => {
    await revoke();
    await org.update({ oauth, sobject: account({ Id: id, Phone: '1' }) });
    await revoke();
    const row = told(await org.getRecord({ oauth, sobject: account({ Id: id }) }));
    assert.equal(row.get('phone'), '1');
  });
  await step('upsert', async () => {
    const row = account({ Name: 'upserted' });
    row.setExternalId('External_Id__c', `${CLIENT} n`);
    for (const created of [true, false]) {
      await revoke();
      assert.equal(told(await org.upsert({ oauth, sobject: row })).created, created);
    }
  });
  await step('delete', async () => {
    await revoke();
    await org.delete({ oauth, sobject: account({ Id: id }) });
  });
  await step('login', async () => {
    const own = connect({ mode: 'single' });
    await revoke();
    const { access_token: token, instance_url: url } = told(await own.authenticate({ username: 'somebody@elsewhere.example', password: 'any' }));
    assert.match(token, /!SFPROXY\.placeholder/);
    assert.equal(url, BASE);
    await revoke();
    assert.equal(told(await own.query({ query: 'SELECT Id FROM Account LIMIT 3' })).records.length, 3);
    await revoke();
    assert.match(told(await own.getIdentity()).user_id, /^005/);
  });
  await step('not-found', async () => {
    await revoke();
    await assert.rejects(org.getRecord({ oauth, sobject: account({ Id: '001000000000000AAA' }) }), { errorCode: 'NOT_FOUND' });
  });
  end();
}

main();
