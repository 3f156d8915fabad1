// A platform event, published by REST and received by whatever streams: each message once, in order, although sessions end in
// between. Shared by the streaming clients.
'use strict';

const { revoke, assert } = require('./common.js');

const MESSAGES = 6;
const PATIENCE = 60_000;

class Events {
  /** `publish` sends one message. */
  constructor(publish) {
    this.publish = publish;
    this.channel = '/event/Practice_Event__e';
    /** -2: from the first event that the org still has; one that is missed before anything came would be lost with -1. */
    this.replay = -2;
    this.resubscriptions = 0;
    this.over = false;
    this.received = [];
    this.mine = `${process.env.CLIENT} ${Date.now()}`;
    this.waiting = [];
  }

  saw({ data = {}, payload = data.payload, event = data.event }) {
    assert(!(event.replayId <= this.replay), `event ${event.replayId} came again after ${this.replay}`);
    this.replay = event.replayId;
    // Other clients publish, too.
    if (payload.Message__c.startsWith(this.mine)) this.received.push(payload.Message__c.slice(this.mine.length));
    this.look();
  }

  subscribed() {
    this.isSubscribed = true;
    this.look();
  }

  look() {
    this.waiting = this.waiting.filter(({ condition, resolve }) => !condition() || resolve());
  }

  until(what, condition) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no ${what} within ${PATIENCE} ms; ${this.received.length} received, ${this.resubscriptions} subscriptions anew`)), PATIENCE);
      this.waiting.push({ condition, resolve: () => { clearTimeout(timer); resolve(); } });
      this.look();
    });
  }

  /** Publishes each message when the one before has come, and ends the session in between. */
  async exchange() {
    await this.until('subscription', () => this.isSubscribed);
    for (let n = 0; n < MESSAGES; n += 1) {
      const answer = await this.publish(`${this.mine}${n}`);
      assert.equal(answer.success, true);
      await this.until(`message ${n}`, () => this.received.length > n);
      await revoke();
    }
    this.over = true;
    assert.deepEqual(this.received, Array.from({ length: MESSAGES }, (_, n) => String(n)));
    assert(this.resubscriptions > 0, 'a session ended and was noticed');
  }
}

module.exports = { Events };
