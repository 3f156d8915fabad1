// The CometD project's own client, over long polling.
'use strict';

const { adapt } = require('cometd-nodejs-client');
const { CometD } = require('cometd');
const { BASE, DATA, step, end, trace } = require('./common.js');
const { Events } = require('./events.js');

adapt();

async function publish(message) {
  const body = JSON.stringify({ Message__c: message });
  const answer = await fetch(`${BASE}${DATA}/sobjects/Practice_Event__e`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  const text = await answer.text();
  trace('POST', answer.status, Object.fromEntries(answer.headers), text);
  return JSON.parse(text);
}

step('streaming', async () => {
  const events = new Events(publish);
  // A dead session is told with `reconnect: none`, after which a client has ended: there is a new one, which goes on after the
  // event that was seen last.
  let current;
  const begin = () => {
    const client = new CometD();
    current = client;
    const again = () => {
      if (client !== current || events.over) return;
      events.resubscriptions += 1;
      client.disconnect();
      setTimeout(begin, 20);
      current = undefined;
    };
    client.unregisterTransport('websocket');
    client.configure({ url: `${BASE}/cometd/60.0`, appendMessageTypeToURL: false, logLevel: 'error' });
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
    client.handshake((shaken) => {
      if (!shaken.successful) return again();
      client.subscribe(events.channel, (message) => events.saw(message), (subscribed) => (subscribed.successful ? events.subscribed() : again()));
    });
  };
  begin();
  await events.exchange();
  await new Promise((resolve) => current.disconnect(resolve));
}).then(end);
