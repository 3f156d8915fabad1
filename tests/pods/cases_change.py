"""What changes while the pod runs: keys, secrets, configuration, all through the kubelet's `..data`."""

import copy
import json
import subprocess

import yaml
from cases import all_well, case, check
from world import TOKEN, output, searched

PROXY, APP = "sf-token-proxy", "app"


def calling(w, pod):
    """Until the app has made some more calls; how many it has made."""
    before = output(pod[APP]).get("progress", {}).get("calls", 0)
    return w.eventually("the app calls", lambda: (now := output(pod[APP]).get("progress", {}).get("calls", 0)) > before + 30 and now)


def new_pair(w):
    """A key and a certificate as an admin makes them (README); the key's lines are canaries."""
    key, certificate = w.scratch / "new-key.pem", w.scratch / "new-cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=sf-token-proxy", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    w.canaries += [line for line in key.read_text().splitlines() if not line.startswith("-----")]
    return key.read_bytes(), certificate.read_text()


def swap(w, pod, **files):
    """New contents of the Secret, brought as the kubelet brings them."""
    secret = pod.cluster.secrets["salesforce"]
    secret |= {name.replace("_", "."): content for name, content in files.items()}
    check(pod.sync() == 1, "no volume has changed")


def reloads(w, result):
    return w.metric("secret_reloads_total", org="main", result=result)


@case
def a_key_is_rotated_while_the_old_certificate_is_withdrawn_and_no_call_fails(w):
    pod = w.pod(**w.jwt()).start().wait_ready()
    calling(w, pod)
    key, certificate = new_pair(w)
    before = reloads(w, "ok")
    swap(w, pod, key_pem=key)
    w.eventually("the new key is read", lambda: reloads(w, "ok") > before)
    w.org.control("certificate", client_id=w.org.apps["jwt"]["client_id"], certificate=certificate)
    # From now on the old key is good for nothing, and no token lives.
    for _ in range(3):
        logins = w.org.stats()["token_ok"]
        w.org.control("revoke")
        w.eventually("a login with the new key", lambda: w.org.stats()["token_ok"] > logins)
        calling(w, pod)
    check(w.metric("secret_last_reload_successful", org="main") == 1, "the metric says that the reload failed")
    pod.delete()
    all_well(output(pod[APP]))
    check(pod[PROXY].restarts == 0, "the sidecar was restarted")


@case
def a_key_that_is_none_keeps_the_old_one_and_says_so(w):
    pod = w.pod(**w.jwt()).start().wait_ready()
    calling(w, pod)
    good = pod.cluster.secrets["salesforce"]["key.pem"]
    ok = reloads(w, "ok")
    swap(w, pod, key_pem=b"-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n")
    w.eventually("the bad key is noticed", lambda: reloads(w, "failed") >= 1)
    check(w.metric("secret_last_reload_successful", org="main") == 0, "the metric says that all is well")
    check(reloads(w, "ok") == ok, "it counts as read")
    for _ in range(2):
        logins = w.org.stats()["token_ok"]
        w.org.control("revoke")
        w.eventually("a login with the old key", lambda: w.org.stats()["token_ok"] > logins)
        calling(w, pod)
    log = pod[PROXY].log()
    told = [line for line in log.splitlines() if '"level":"WARN"' in line or '"level":"ERROR"' in line]
    check(any("private_key" in line or "key.pem" in line for line in told), f"the log does not say so: {told}")
    swap(w, pod, key_pem=good)
    w.eventually("the good key is taken again", lambda: w.metric("secret_last_reload_successful", org="main") == 1)
    pod.delete()
    all_well(output(pod[APP]))


@case
def a_consumer_secret_is_rotated_and_no_call_fails(w):
    pod = w.pod().start().wait_ready()
    calling(w, pod)
    secret = "9F" * 32
    w.canaries.append(secret)
    before = reloads(w, "ok")
    swap(w, pod, **{"client-secret": secret.encode()})
    w.eventually("the new secret is read", lambda: reloads(w, "ok") > before)
    w.org.control("secret", client_id=w.org.apps["client_credentials"]["client_id"], secret=secret)
    logins = w.org.stats()["token_ok"]
    w.org.control("revoke")
    w.eventually("a login with the new secret", lambda: w.org.stats()["token_ok"] > logins)
    calling(w, pod)
    pod.delete()
    all_well(output(pod[APP]))


@case
def a_new_secret_ends_a_refusal_at_once(w):
    cluster = w.cluster(w.render(w.values()))
    good = cluster.secrets["salesforce"]["client-secret"]
    cluster.secrets["salesforce"]["client-secret"] = b"0" * 64
    pod = w.run(cluster.document("Deployment"), cluster).start()
    w.eventually("the login is refused", lambda: w.get("/startupz", check=False)[1].count("refused"), 20)
    swap(w, pod, **{"client-secret": good})
    pod.wait_ready(30)
    w.eventually("the app calls", lambda: output(pod[APP]).get("progress", {}).get("calls", 0) > 20)
    pod.delete()
    all_well(output(pod[APP]))
    check(pod[PROXY].restarts == 0, "only a restart has helped")


def configuration(pod):
    """Name of the rendered ConfigMap, its key, the settings."""
    name = next(v["configMap"]["name"] for v in pod.spec["volumes"] if v["name"] == "sf-token-proxy-config")
    key, content = next(iter(pod.cluster.config_maps[name].items()))
    return name, key, yaml.safe_load(content)


def put(pod, settings):
    name, key, _ = configuration(pod)
    content = settings if isinstance(settings, bytes) else json.dumps(settings).encode()
    pod.cluster.config_maps[name] = {key: content}
    check(pod.sync() == 1, "no volume has changed")


@case
def a_changed_configuration_is_taken_and_no_call_fails(w):
    pod = w.pod().start().wait_ready()
    calling(w, pod)
    _, _, settings = configuration(pod)
    check(w.get("/services/data", port=8081, check=False)[0] == 0, "the second listener is there before it is configured")
    changed = copy.deepcopy(settings)
    changed["listeners"] = [{"address": "localhost:8080"}, {"address": "localhost:8081"}]
    changed["orgs"]["main"]["token"] = {"refresh_wait": "9s"}
    before = w.metric("config_reloads_total", result="ok")
    put(pod, changed)
    w.eventually("the configuration is taken", lambda: w.metric("config_reloads_total", result="ok") > before)
    for host in ("127.0.0.1", "::1"):
        check(w.get("/services/data", host, 8081)[0] == 200, f"the new listener does not answer by {host}")
    calling(w, pod)
    put(pod, b"orgs: {main: {login_url: 7}}")
    w.eventually("the bad one is noticed", lambda: w.metric("config_reloads_total", result="failed") == 1)
    check(w.metric("config_last_reload_successful") == 0, "the metric says that all is well")
    check(w.get("/services/data", port=8081)[0] == 200, "the bad configuration has taken the listener away")
    calling(w, pod)
    put(pod, settings)
    w.eventually("the listener is gone", lambda: w.get("/services/data", port=8081, check=False)[0] == 0)
    check(w.metric("config_last_reload_successful") == 1, "the metric says that the reload failed")
    calling(w, pod)
    pod.delete()
    all_well(output(pod[APP]))
    check(pod[PROXY].restarts == 0, "the sidecar was restarted")


@case
def nothing_that_is_printed_or_answered_holds_a_secret_or_a_token(w):
    """run.py searches after every test; here the search itself is tried, and the pages that no other test asks for."""
    pod = w.pod(sfTokenProxy={"config": {"log": {"level": "trace", "requests": True}}}).start().wait_ready()
    w.org.control("revoke")
    calling(w, pod)
    for host in pod.addresses:
        for path in ("/startupz", "/livez", "/readyz", "/metrics", "/status", "/nothing"):
            w.watched[f"{path} by {host}"] = w.get(path, host)[1]
    for name in (PROXY, APP):
        process = pod[name].now.process.pid
        for file in ("environ", "cmdline"):
            with open(f"/proc/{process}/{file}", "rb") as content:
                w.watched[f"{file} of {name}"] = content.read().decode(errors="replace")
    pod.delete()
    all_well(output(pod[APP]))
    check(len(pod[PROXY].log()) > 2_000, "so little is logged at level trace that nothing is proven")
    for planted in ("x" + w.canaries[0] + "y", '{"token":"00DSB0000001pRC!AQ4AQabc.def_ghijklmnopqrstuvwxyz"}'):
        check(searched({"planted": planted}, w.canaries) == ["planted"], "the search is blind")
    check(len(w.canaries) >= 10 and all(len(canary) > 15 for canary in w.canaries), "few secrets are looked for")
    check(not TOKEN.search("00DSB0000001pRC!SFPROXY.placeholder_0123456789012345"), "the placeholder is taken for a token")
