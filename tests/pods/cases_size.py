"""What the sidecar takes: memory and CPU, measured from its cgroup; docs/operations.md has the figures."""

import concurrent.futures
import json
import pathlib
import time

from cases import all_well, case, check
from cgroup import Cgroup
from spec import quantity
from world import output

PROXY, APP = "sf-token-proxy", "app"
MIB = 2**20


def load(pod, *words):
    """The app's binary once more, beside the app: its summary."""
    done = pod[APP].exec("/app", "load", "--base", "http://localhost:8080", *words, seconds=120, check=False)
    said = {}
    for line in done.stdout.splitlines():
        said |= json.loads(line)
    return all_well(said, f"under load: {done.stderr}")


@case
def memory_stays_under_the_charts_limit_with_200_connections_and_after_5000_calls(w):
    quiet = ["serve", "--threads", "1", "--every-ms", "5000", "--after-term-ms", "0"]
    pod = w.pod(deployment={"args": quiet}).start().wait_ready()
    group = Cgroup(pod[PROXY].now.process.pid)
    limit = int(quantity(pod[PROXY].spec["resources"]["limits"]["memory"]))
    check(group.limit() == limit, f"the limit is {group.limit()}, not the chart's {limit}")
    begun, used = time.monotonic(), group.cpu_seconds()
    time.sleep(2)  # a measurement of time itself: what it takes while nothing is asked of it
    idle_cpu = (group.cpu_seconds() - used) / (time.monotonic() - begun)
    idle = group.anonymous()
    load(pod, "--connections", "200", "--calls", "3000")
    after = group.anonymous()
    connections = w.metric("process_open_fds")
    used = group.cpu_seconds()
    load(pod, "--connections", "200", "--calls", "3000")
    per_call, again = (group.cpu_seconds() - used) / 3000, group.anonymous()
    check(group.peak() * 2 < limit, f"peak {group.peak()} of {limit}: half of the limit is for bodies that are kept for a repetition")
    check(pod[PROXY].restarts == 0, "the sidecar was restarted")
    check(again < after + 4 * MIB, f"memory grows with calls: {after / MIB:.1f} MiB, then {again / MIB:.1f} MiB")
    print(
        f"     memory: idle {idle / MIB:.1f} MiB anonymous, after 200 connections {after / MIB:.1f}, again {again / MIB:.1f}; "
        f"peak of the cgroup {group.peak() / MIB:.1f} of {limit / MIB:.0f} MiB; {connections:.0f} descriptors; "
        f"cpu: idle {idle_cpu * 1000:.2f} m, {per_call * 1e6:.0f} µs a call"
    )


@case
def the_charts_limit_holds_the_bodies_of_70_uploads_that_a_slow_org_has_not_answered(w):
    """The chart's own limit and the program's own `replay.total` have to fit together: that much is kept, and nobody is killed for it."""
    uploads = 70
    quiet = ["serve", "--threads", "1", "--every-ms", "5000", "--after-term-ms", "0"]
    pod = w.pod(deployment={"args": quiet}).start().wait_ready()
    group = Cgroup(pod[PROXY].now.process.pid)
    body = w.scratch / "upload.json"
    body.write_text(json.dumps({"Name": "an upload"}) + " " * MIB)
    w.org.control("latency", api_ms=4000, token_ms=0)
    # Each over a connection of its own; curl numbers them by itself.
    curl = ["curl", "-sS", "-m", 60, "--parallel", "--parallel-immediate", "--parallel-max", uploads, "-o", "/dev/null", "-w", "%{http_code}\n"]
    curl += ["-H", "Content-Type: application/json", "--data-binary", f"@{body}", f"http://127.0.0.1:8080/services/data/v60.0/sobjects/Account?upload=[1-{uploads}]"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sent = pool.submit(w.network.inside, *curl, check=False, seconds=90)
        ended = pod[PROXY].now.over
        kept = w.eventually("the bodies of nearly all are kept", lambda: ended.is_set() or (now := w.metric("replay_bytes")) and now >= 60 * MIB and now, 30)
        answers = sent.result()
    statuses = answers.stdout.split()
    check(not ended.is_set(), f"the sidecar was ended: {pod[PROXY].instances[0].reason}")
    check(pod[PROXY].restarts == 0, "the sidecar was restarted")
    check(statuses == ["201"] * uploads, f"answers: {sorted(set(statuses))}, {len(statuses)} of them; {answers.stderr[-300:]}")
    print(f"     memory: {kept / MIB:.0f} MiB of bodies kept at once, peak of the cgroup {group.peak() / MIB:.1f} of {group.limit() / MIB:.0f} MiB")


@case
def memory_over_the_limit_would_be_seen(w):
    """The measurement's own test: with a limit that is too small, the sidecar is killed for its memory."""

    def small(document):
        # The chart refuses a limit that is less than replay.total.
        proxy = next(container for container in document["spec"]["template"]["spec"]["initContainers"] if container["name"] == PROXY)
        proxy["resources"] = {"limits": {"memory": "10Mi"}, "requests": {"memory": "10Mi"}}

    pod = w.pod(change=small).start().wait_ready()
    pod[APP].exec("/app", "load", "--connections", "200", "--calls", "2000", seconds=120, check=False)
    pod.wait("the sidecar is killed for its memory", lambda: pod[PROXY].instances[0].reason == "OOMKilled", 30)


@case
def threads_follow_the_limit_of_cpu_and_without_one_there_is_one(w):
    found = {}
    for limit in (None, "2"):
        limits = {"limits": {"cpu": limit}} if limit else {}
        pod = w.pod(sfTokenProxy={"resources": limits}).start().wait_ready()
        said = [json.loads(line) for line in pod[PROXY].log().splitlines() if '"worker threads"' in line]
        found[limit] = said[0]["threads"]
        # Threads for files and names have the same names as workers, so there are at least as many.
        threads = pathlib.Path(f"/proc/{pod[PROXY].now.process.pid}/task")
        check(len(list(threads.iterdir())) >= found[limit], f"fewer threads than it says: {found}")
        pod.wait("the app has called", lambda: "first" in output(pod[APP]), 30)
        pod.delete()
        all_well(output(pod[APP]))
    check(found == {None: 1, "2": 2}, f"worker threads by limit: {found}")
