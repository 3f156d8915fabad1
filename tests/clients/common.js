// What the Node clients share: steps, the revoker, the answers seen, the rows of the bulk job. See scenario.py for the story.
'use strict';

const fs = require('fs');
const assert = require('assert');

const { BASE, CONTROL, TRACE } = process.env;
const DATA = '/services/data/v60.0';
const ROWS = 50_000;

let failed = false;

/** Prints one line for each step, which the runner reads. */
async function step(name, action) {
  const started = Date.now();
  try {
    await action();
    console.log(`STEP ok ${name} ${Date.now() - started}`);
  } catch (error) {
    failed = true;
    const text = `${error.name}: ${error.message}`.replace(/\s+/g, ' ').slice(0, 600);
    console.log(`STEP fail ${name} ${Date.now() - started} ${text}`);
  }
}

function end() {
  process.exit(failed ? 1 : 0);
}

/** Every answer's head and the start of its body, for the canary. */
function trace(method, status, headers, body) {
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\n`).join('');
  fs.appendFileSync(TRACE, `${method} ${status}\n${head}\n${String(body).slice(0, 4096)}\n\n`);
  assert(status !== 401 && status < 500, `${method}: the client saw ${status}: ${String(body).slice(0, 300)}`);
}

/** The practice org's controls, without the proxy. */
async function control(method, path) {
  const answer = await fetch(CONTROL + path, { method });
  assert.equal(answer.status, 200, `${path}: ${answer.status}`);
  return answer.json();
}

/** Ends every session of the org, now. */
const revoke = () => control('POST', '/control/revoke');

const two = (number, width) => String(number).padStart(width, '0');

/** An é and a comma to be quoted among them. */
function leads(company) {
  return Array.from({ length: ROWS }, (_, n) => ({ LastName: `Lead ${two(n, 5)} é`, Company: company, Email: `${n}@example.com` }));
}

/** Two batches of Bulk 1.0. */
const bulk1Leads = (company) => leads(company).slice(0, 10_000);

/** As deepEqual, which is slow to say what differs in ten thousand rows. */
function sameRows(found, wanted) {
  assert.equal(found.length, wanted.length);
  wanted.forEach((row, n) => assert.deepEqual(found[n], row));
}

/** Six hundred contacts in three parts. */
function contacts(client, part) {
  return Array.from({ length: 200 }, (_, n) => ({ FirstName: client, LastName: `${part}-${two(n, 3)}` }));
}

function allContactNames(client) {
  return [0, 1, 2].flatMap((part) => contacts(client, part).map((row) => row.LastName));
}

/** Every byte value, longer than a megabyte. */
function fileContent() {
  return Buffer.concat(Array(5_000).fill(Buffer.from(Array.from({ length: 256 }, (_, n) => n))));
}

module.exports = { BASE, DATA, ROWS, step, end, trace, control, revoke, leads, bulk1Leads, sameRows, contacts, allContactNames, fileContent, assert };
