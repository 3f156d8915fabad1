"""The life of a pod: its start, its work, its end."""

import pathlib
import re
import signal
import time

from cases import all_well, case, check
from world import output

PROXY, APP = "sf-token-proxy", "app"


def leaving(pod):
    """With nothing in flight the sidecar leaves at once."""
    took = pod[PROXY].now.finished_at - pod[PROXY].term_at
    check(took < 1, f"nothing was in flight, and the sidecar took {took:.2f} s to leave")


@case
def the_very_first_call_of_a_deployments_app_works_and_so_do_all_calls_after_its_own_sigterm(w):
    # The login is slow and calls are impatient: without the startup probe the first would come too early.
    w.org.control("latency", api_ms=0, token_ms=2000)
    pod = w.pod(sfTokenProxy={"config": {"orgs": {"main": {"token": {"refresh_wait": "200ms"}}}}}).start().wait_ready()
    w.eventually("the app calls", lambda: output(pod[APP]).get("progress", {}).get("calls", 0) > 20)
    took = pod.delete()
    summary = all_well(output(pod[APP]))
    check(summary["after_term"] >= 10, f"few calls after SIGTERM: {summary}")
    proxy, app = pod[PROXY].now, pod[APP].now
    check((proxy.exit_code, app.exit_code) == (0, 0), f"exit codes {proxy.exit_code} {app.exit_code}")
    check(pod[PROXY].term_at >= app.finished_at, "the sidecar was stopped before the app was gone")
    leaving(pod)
    check(took < pod.grace / 2, f"the end took {took:.1f} s of {pod.grace} s")
    check(pod[PROXY].restarts == pod[APP].restarts == 0, "something was restarted")


@case
def a_call_in_flight_is_finished_when_the_sidecar_is_stopped(w):
    pod = w.pod().start().wait_ready()
    w.org.control("latency", api_ms=1500, token_ms=0)
    w.eventually("a slow call is in flight", lambda: w.metric("requests_in_flight"))
    begun = time.monotonic()
    pod[PROXY].stopping.set()
    pod[PROXY].now.signal(signal.SIGTERM)
    check(pod[PROXY].now.over.wait(60), "the sidecar has not left")
    took = time.monotonic() - begun
    check(pod[PROXY].now.exit_code == 0, f"exit code {pod[PROXY].now.exit_code}")
    check(took < 15, f"the sidecar left after {took:.2f} s")
    pod.delete()
    failures = output(pod[APP])["summary"]["failures"]
    check(all("connect" in failure["body"].lower() for failure in failures), f"a call that had been taken was broken off: {failures}")


@case
def a_job_ends_by_itself_with_the_sidecar(w):
    w.org.control("latency", api_ms=0, token_ms=2000)
    pod = w.pod("Job", sfTokenProxy={"config": {"orgs": {"main": {"token": {"refresh_wait": "200ms"}}}}}).start()
    pod.wait_over(120)
    summary = all_well(output(pod[APP]))
    check(summary["calls"] == 21, summary)
    check(pod.phase() == "Succeeded" and pod[PROXY].now.exit_code == 0, f"{pod.phase()}, sidecar {pod[PROXY].now.exit_code}")
    leaving(pod)


@case
def a_cronjobs_template_runs_to_its_end(w):
    pod = w.pod("CronJob").start()
    pod.wait_over(120)
    check(all_well(output(pod[APP]))["calls"] == 21 and pod.phase() == "Succeeded", pod.describe())


@case
def a_sidecar_that_is_killed_is_started_again_and_calls_recover_without_a_storm_of_logins(w):
    pod = w.pod().start().wait_ready()
    w.eventually("the app calls", lambda: output(pod[APP]).get("progress", {}).get("calls", 0) > 20)
    before = w.org.stats()["token_requests"]
    killed = time.monotonic()
    pod[PROXY].kill()
    pod.wait("the sidecar has started again", lambda: pod[PROXY].restarts == 1 and pod[PROXY].started.is_set(), 90)
    away = time.monotonic() - killed
    begun = output(pod[APP])["progress"]["calls"]
    w.eventually("calls go on", lambda: output(pod[APP])["progress"]["calls"] > begun + 100)
    pod.delete()
    summary = output(pod[APP])["summary"]
    check(pod[PROXY].instances[0].exit_code == 137, f"exit code {pod[PROXY].instances[0].exit_code}")
    check(summary["failed"] > 0, "nothing failed: was the sidecar killed at all?")
    check(pod[APP].restarts == 0, "the app was restarted")
    since = summary["last_failure_ms"] - summary["failures"][0]["at_ms"]
    check(since < away * 1000 + 2_000, f"calls failed for {since} ms, though the sidecar was back after {away:.1f} s")
    check(summary["after_term_failed"] == 0, f"calls fail still at the end: {summary}")
    logins = w.org.stats()["token_requests"] - before
    check(1 <= logins <= 2, f"{logins} logins after one restart")
    print(f"     killed: {summary['failed']} calls of {summary['calls']} failed within {since} ms, the sidecar was back after {away * 1000:.0f} ms, {logins} login")


@case
def a_sidecar_that_stands_still_is_found_by_its_liveness_probe(w):
    pod = w.pod(sfTokenProxy={"livenessProbe": {"periodSeconds": 1, "failureThreshold": 2}}, terminationGracePeriodSeconds=3).start().wait_ready()
    pod[PROXY].now.signal(signal.SIGSTOP)
    pod.wait("the sidecar has been restarted", lambda: pod[PROXY].restarts == 1 and pod[PROXY].started.is_set(), 90)
    check(any("liveness probe failed 2 times" in event for event in pod.events), pod.events)
    begun = output(pod[APP])["progress"]["calls"]
    w.eventually("calls go on", lambda: output(pod[APP])["progress"]["calls"] > begun + 50)


@case
def a_wrong_configuration_ends_with_78_and_the_message_names_the_setting(w):
    documents = w.render(w.values(sfTokenProxy={"config": {"orgs": {"main": {"token": {"lifetime": "tomorrow"}}}}}))
    cluster = w.cluster(documents)
    pod = w.run(cluster.document("Deployment"), cluster).start()
    pod.wait("the sidecar has ended", lambda: pod[PROXY].instances and pod[PROXY].instances[0].over.is_set(), 90)
    first = pod[PROXY].instances[0]
    check(first.exit_code == 78, f"exit code {first.exit_code}: {first.message}")
    last = (first.message or "").strip().splitlines()[-1:]
    check(last and "orgs.main.token.lifetime" in last[0], f"the last line of the termination message: {last}")
    check(not pod[APP].instances, "the app was started")


@case
def a_refused_login_keeps_the_app_from_starting_and_says_why(w):
    changes = {"sfTokenProxy": {"startupProbe": {"failureThreshold": 4}, "config": {"admin": {"startup_patience": "1s"}}}}
    cluster = w.cluster(w.render(w.values(**changes)))
    cluster.secrets["salesforce"]["client-secret"] = b"C0FFEE" * 8
    w.canaries.append("C0FFEE" * 8)
    pod = w.run(cluster.document("Deployment"), cluster).start()
    pod.wait("the startup probe has given up", lambda: pod[PROXY].restarts >= 1, 90)
    check(not pod[APP].instances and not pod[PROXY].started.is_set(), "the app was started")
    log = pod[PROXY].log()
    check("invalid client credentials" in log and "client_credentials" in log, f"the log does not say why: {log[-600:]}")
    status, text = w.eventually("the new instance answers", lambda: (found := w.get("/startupz", check=False))[0] == 503 and "refused" in found[1] and found)
    check(status == 503 and "invalid client credentials" in text, f"/startupz: {text}")
    logins = w.org.stats()["token_requests"]
    check(logins <= 4, f"{logins} logins with a secret that is refused")


@case
def an_org_that_is_down_holds_the_app_only_for_the_patience(w):
    w.org.control("down", token=True, api=True)
    pod = w.pod(sfTokenProxy={"config": {"admin": {"startup_patience": "3s"}}}).start()
    pod.wait("the app has been started", lambda: pod[APP].instances, 90)
    waited = pod[APP].instances[0].started_at - pod[PROXY].instances[0].started_at
    check(2.5 < waited < 8, f"the app was started after {waited:.1f} s")
    w.eventually("calls are answered without the org", lambda: output(pod[APP]).get("progress", {}).get("failed", 0) > 3)
    w.org.control("down", token=False, api=False)
    w.eventually("calls succeed", lambda: (said := output(pod[APP]).get("progress")) and said["calls"] > said["failed"] + 20, 40)
    pod.delete()
    said = output(pod[APP])
    failures = said["summary"]["failures"]
    check(all(failure["status"] in (502, 503, 504) for failure in failures), failures)
    check(any("SFPROXY_" in failure["body"] for failure in failures), f"the answers do not say why: {failures}")
    check(said["summary"]["after_term_failed"] == 0, said)


@case
def a_service_of_our_name_is_no_setting_and_no_complaint(w):
    pod = w.pod().start().wait_ready()
    variables = pod.environment(pod[PROXY])
    check(variables.get("SF_TOKEN_PROXY_PORT_8080_TCP_ADDR") and variables.get("SF_TOKEN_PROXY_SERVICE_PORT_METRICS") == "9090", sorted(variables))
    checked = pod[PROXY].exec("/sf-token-proxy", "check", "--config", "/etc/sf-token-proxy/config.yaml", check=False)
    check(checked.returncode == 0, checked.stderr)
    for text in (pod[PROXY].log(), checked.stdout + checked.stderr):
        check("SF_TOKEN_PROXY" not in text, f"a Service's variable is spoken of: {text[-500:]}")
        levels = re.findall(r'"level":"(WARN|ERROR)"', text)
        check(not levels, f"complaints: {text[-800:]}")


@case
def the_proxy_is_on_loopback_and_the_admin_port_on_the_pods_addresses_of_both_families(w):
    pod = w.pod().start().wait_ready()
    addresses = [address for address, name in w.listening() if name == "sf-token-proxy" and address.rsplit(":", 1)[1] in ("8080", "9090")]
    proxy = sorted(address.rsplit(":", 1)[0] for address in addresses if address.endswith(":8080"))
    admin = sorted(address.rsplit(":", 1)[0] for address in addresses if address.endswith(":9090"))
    check(proxy == ["127.0.0.1", "[::1]"], f"the proxy listens on {proxy}")
    check(set(admin) <= {"0.0.0.0", "[::]", "*"} and admin, f"the admin port listens on {admin}")
    for host in ("127.0.0.1", "::1"):
        check(w.get("/services/data", host, 8080)[0] == 200, f"no call by {host}")
    for host in pod.addresses:
        for path in ("/livez", "/startupz", "/readyz", "/metrics"):
            check(w.get(path, host)[0] == 200, f"{path} by {host}")
        check(w.get("/services/data", host, 8080, check=False)[0] == 0, f"the proxy is reached by {host}")


@case
def the_pod_of_helm_test_succeeds(w):
    cluster = w.cluster(w.render(w.values()))
    tests = [d for d in cluster.documents if d["kind"] == "Pod" and "helm.sh/hook" in (d["metadata"].get("annotations") or {})]
    check(len(tests) == 1, f"{len(tests)} pods for helm test")
    pod = w.run(tests[0], cluster).start()
    pod.wait_over(120)
    check(pod.phase() == "Succeeded", pod.describe())


@case
def the_sidecar_runs_as_restricted_as_it_is_rendered(w):
    """What the kernel says of the process, not what the document says: no root, no capability, the filter, nothing to write to, no hook."""
    pod = w.pod().start().wait_ready()
    process = pathlib.Path(f"/proc/{pod[PROXY].now.process.pid}")
    said = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    for who in ("Uid", "Gid"):
        check(said[who].split() == ["65532"] * 4, f"{who}: {said[who]}")
    nothing = "0" * 16
    for name, want in {"CapInh": nothing, "CapPrm": nothing, "CapEff": nothing, "CapBnd": nothing, "CapAmb": nothing, "NoNewPrivs": "1", "Seccomp": "2"}.items():
        check(said[name] == want, f"{name}: {said[name]}, not {want}")
    # ID, parent, device, root, where, options, …
    root = next(mount for line in (process / "mountinfo").read_text().splitlines() if (mount := line.split())[4] == "/")
    check("ro" in root[5].split(","), f"the root can be written to: {root[5]}")
    check("preStop" not in (pod[PROXY].spec.get("lifecycle") or {}), "a preStop hook would hold up the end of every pod")
