"""The fallback for clusters without native sidecars: an ordinary container, held and ended by the proxy's own commands."""

from cases import all_well, case, check
from world import output

PROXY, APP = "sf-token-proxy", "app"
CLASSIC = {"classic": {"enabled": True}}


@case
def the_classic_sidecars_hook_holds_the_app_until_its_first_call_works(w):
    w.org.control("latency", api_ms=0, token_ms=2000)
    pod = w.pod(sfTokenProxy=CLASSIC).start().wait_ready()
    waited = pod[APP].instances[0].started_at - pod[PROXY].instances[0].started_at
    check(waited > 1.9, f"the app was started {waited:.1f} s after the sidecar, while the login took 2 s")
    w.eventually("the app calls", lambda: output(pod[APP]).get("progress", {}).get("calls", 0) > 20)
    took = pod.delete()
    summary = all_well(output(pod[APP]), "though shutdown.delay is set")
    check(summary["after_term"] >= 10, summary)
    check(pod[PROXY].now.exit_code == 0 and took < 15, f"exit code {pod[PROXY].now.exit_code}, {took:.1f} s")


@case
def a_classic_job_ends_by_a_call_to_the_quit_endpoint(w):
    quit = ["import", "--quit", "http://localhost:9090/quit"]
    pod = w.pod("Job", sfTokenProxy=CLASSIC | {"quitEndpoint": True}, job={"args": quit}).start()
    pod.wait_over(120)
    summary = all_well(output(pod[APP]))
    check(summary["quit"] in (200, 202, 204), f"POST /quit: {summary['quit']}")
    check(pod.phase() == "Succeeded" and pod[PROXY].now.exit_code == 0, pod.describe())


@case
def only_loopback_may_quit_and_only_where_it_is_switched_on(w):
    pod = w.pod(sfTokenProxy={"quitEndpoint": True}).start().wait_ready()
    for host in pod.addresses:
        status, text = w.get("/quit", host, method="POST")
        check(status == 403, f"POST /quit by {host}: {status} {text}")
    check(w.get("/quit")[0] in (404, 405), "GET /quit")
    check(not pod[PROXY].now.over.is_set(), "the sidecar has left")
    pod.delete()
    off = w.pod().start().wait_ready()
    status, _ = w.get("/quit", method="POST")
    check(status in (403, 404, 405) and not off[PROXY].now.over.is_set(), f"POST /quit where it is off: {status}")
