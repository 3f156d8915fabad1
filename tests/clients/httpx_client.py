"""httpx: HTTP/1.1, or with the argument `http2` HTTP/2 with prior knowledge."""

import sys

import httpx

import scenario

HTTP2 = sys.argv[1:] == ["http2"]
client = httpx.Client(base_url=scenario.BASE, http1=not HTTP2, http2=HTTP2, timeout=60, trust_env=False)


def send(method, target, headers, body):
    answer = client.request(method, target, headers=headers, content=body)
    scenario.same(answer.http_version, "HTTP/2" if HTTP2 else "HTTP/1.1", "the protocol")
    return scenario.Answer(answer.status_code, dict(answer.headers), answer.content)


if __name__ == "__main__":
    scenario.run(send)
