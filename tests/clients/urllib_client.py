"""Python's urllib: a new connection for every call, `Connection: close`, no compression asked for."""

import urllib.error
import urllib.request

import scenario


class Same(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Same)


def send(method, target, headers, body):
    # An iterator without Content-Length makes urllib send chunks.
    request = urllib.request.Request(scenario.BASE + target, data=body, headers=headers, method=method)
    try:
        answer = opener.open(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        names = {name.lower(): value for name, value in answer.headers.items()}
        return scenario.Answer(answer.status, names, answer.read())


if __name__ == "__main__":
    scenario.run(send)
