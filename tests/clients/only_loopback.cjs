// Preloaded into the sf CLI and whatever Node process it starts: a connection or a name that leaves this machine is refused, and
// written to the file STRAY_CALLS.
'use strict';

const dns = require('dns');
const fs = require('fs');
const net = require('net');

const OURS = /^(localhost|127(\.\d+){3}|::1|0\.0\.0\.0|::)$/;

function refuse(host) {
  fs.appendFileSync(process.env.STRAY_CALLS, `${host} by ${process.argv.slice(1, 4).join(' ')}\n`);
  return Object.assign(new Error(`a call to ${host} was refused: this test may not leave the machine`), { code: 'ECONNREFUSED' });
}

const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function watched(...given) {
  // Node's own net calls it with the arguments in an array.
  const [first, second] = Array.isArray(given[0]) ? given[0] : given;
  const options = typeof first === 'object' && first !== null ? first : { host: second };
  // Without a host it is this machine; with a path it is no network.
  const host = options.path === undefined && options.host;
  if (host && !OURS.test(host)) {
    const error = refuse(host);
    process.nextTick(() => this.destroy(error));
    return this;
  }
  return connect.apply(this, given);
};

const lookup = dns.lookup;
dns.lookup = function watched(name, ...rest) {
  if (name && !OURS.test(name)) return process.nextTick(rest.at(-1), refuse(name));
  return lookup.call(this, name, ...rest);
};
// What `promisify` goes by.
Object.defineProperties(dns.lookup, Object.getOwnPropertyDescriptors(lookup));

const lookupLater = dns.promises.lookup;
dns.promises.lookup = async function watched(name, ...rest) {
  if (name && !OURS.test(name)) throw refuse(name);
  return lookupLater.call(this, name, ...rest);
};
