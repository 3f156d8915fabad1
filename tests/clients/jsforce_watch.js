// Every answer that jsforce gets is seen, whatever jsforce makes of it; and it must not hide a refusal by trying again.
'use strict';

const { trace, assert } = require('./common.js');

/** `module` is jsforce, or its Node-only twin; gives where the headers of the last answer are. */
function watch(module) {
  const HttpApi = require(`${module}/lib/http-api`).default;
  const emit = HttpApi.prototype.emit;
  const last = {};
  HttpApi.prototype.emit = function watched(event, ...values) {
    if (event === 'request') {
      this.method = values[0].method;
      const credential = Object.entries(values[0].headers).some(([name, value]) => /^(authorization|x-sfdc-session)$/i.test(name) && value);
      assert(!credential || this._conn.accessToken, 'a credential is sent by those alone who have logged in');
    }
    if (event === 'response') {
      last.headers = values[0].headers;
      trace(this.method, values[0].statusCode, values[0].headers, values[0].body);
    }
    return emit.call(this, event, ...values);
  };
  return last;
}

module.exports = { watch };
