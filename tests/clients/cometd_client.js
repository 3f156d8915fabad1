// The CometD project's own client, over long polling.
'use strict';

const { adapt } = require('cometd-nodejs-client');
const { CometD } = require('cometd');
const { BASE, DATA, step, end, trace, control, assert } = require('./common.js');
const { Events } = require('./events.js');

adapt();

async function publish(message) {
  const body = JSON.stringify({ Message__c: message });
  const answer = await fetch(`${BASE}${DATA}/sobjects/Practice_Event__e`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  const text = await answer.text();
  trace('POST', answer.status, Object.fromEntries(answer.headers), text);
  return JSON.parse(text);
}

function newClient() {
  const client = new CometD();
  client.unregisterTransport('websocket');
  client.configure({ url: `${BASE}/cometd/60.0`, appendMessageTypeToURL: false, logLevel: 'error' });
  return client;
}

/** Nobody else calls: the handshake itself meets the dead session, and is repeated with another token. */
const handshake = () => step('handshake', async () => {
  let good = 0;
  for (let n = 0; n < 5; n += 1) {
    const client = newClient();
    await control('POST', '/control/revoke?quiet=0.3');
    good += await new Promise((resolve) => client.handshake((shaken) => resolve(shaken.successful)));
    await new Promise((resolve) => (client.isDisconnected() ? resolve() : client.disconnect(resolve)));
  }
  // On a busy machine one may take longer than it is quiet, and meet a session's end twice.
  assert(good >= 4, `${good} of 5 handshakes were good`);
});

const streaming = () => step('streaming', async () => {
  const events = new Events(publish);
  // A dead session is told with `reconnect: none`, after which a client has ended: there is a new one, which goes on after the
  // event that was seen last.
  let current;
  const begin = () => {
    const client = newClient();
    current = client;
    const again = () => {
      if (client !== current || events.over) return;
      events.resubscriptions += 1;
      client.disconnect();
      setTimeout(begin, 20);
      current = undefined;
    };
    // As Salesforce's replay extension does.
    client.registerExtension('replay', {
      incoming(message) {
        trace('cometd', 200, {}, JSON.stringify(message));
        return message;
      },
      outgoing(message) {
        if (message.channel === '/meta/subscribe') message.ext = { ...message.ext, replay: { [events.channel]: events.replay } };
        return message;
      },
    });
    client.addListener('/meta/connect', (message) => message.advice?.reconnect === 'none' && again());
    // What still comes by one that was given up comes again by the next.
    client.handshake((shaken) => {
      if (!shaken.successful) return again();
      client.subscribe(events.channel, (message) => client === current && events.saw(message), (subscribed) => (subscribed.successful ? events.subscribed() : again()));
    });
  };
  begin();
  await events.exchange();
  // The last revocation may have ended it already; then nobody would be called back.
  if (current && !current.isDisconnected()) await new Promise((resolve) => current.disconnect(resolve));
});

handshake().then(streaming).then(end);
