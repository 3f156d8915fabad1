"""What the sidecar takes: memory and CPU, measured from its cgroup; docs/operations.md has the figures."""

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
