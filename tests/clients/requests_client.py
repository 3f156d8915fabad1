"""Python requests: a session with kept connections and its cookies."""

import requests

import scenario

session = requests.Session()
session.trust_env = False


def send(method, target, headers, body):
    answer = session.request(method, scenario.BASE + target, headers=headers, data=body, timeout=60, allow_redirects=False)
    names = {name.lower(): value for name, value in answer.headers.items()}
    return scenario.Answer(answer.status_code, names, answer.content)


def cookies(at):
    """`requests` sends back over plain http only what is not marked Secure."""
    at.get("/services/data")
    names = set(session.cookies.keys())
    scenario.check("BrowserId" in names, f"BrowserId among the cookies, found {sorted(names)}")
    target = f"{scenario.DATA}/limits?cookies-of={scenario.CLIENT}"
    at.get(target)
    sent = scenario.seen_by_org(target)[-1]["headers"]
    scenario.check(any(name == "cookie" and "BrowserId" in value for name, value in sent), "the org gets its cookie back")


if __name__ == "__main__":
    scenario.run(send, [("cookies", cookies)])
