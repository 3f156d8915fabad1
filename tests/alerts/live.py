#!/usr/bin/env python3
"""The rules against live proxies: a Prometheus scrapes them while practice orgs misbehave in every way that a rule is for.

    tests/alerts/live.py --bin target/debug/sf-token-proxy            # factor 60, two minutes
    tests/alerts/live.py --bin target/debug/sf-token-proxy --full     # the rules as they are, about 45 minutes

What must hold: what should fire fires and nothing else does, at any moment; what should resolve after healing does, and what should
not (the long windows) does not; no panel of the dashboard is empty. Scenarios are in scenarios.py; all go wrong at once, each in a
job of its own. The windows of days have a past: recorded rates are written into Prometheus before it starts, so that three days
are three days at full length too.

Ends with the plain line `N alerts fired as they should, nothing else`. Every process is ended by its own id, every wait has a deadline.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time

from scale import scaled
from scenarios import get, scenarios
from stage import ROOT, Caller, PracticeOrg, Prometheus, Proxy
from words import RULES, filled, panels, unknown

from harness import Metrics  # noqa: E402  stage has set the path

# What there was of today's traffic in the past.
PAST = 0.3
ABSENT = ("SfTokenProxyAbsent", "", "")


class Wrong(Exception):
    """What must hold does not."""


class Stage:
    """Everything that runs, for the scenarios."""

    def __init__(self, binary, scratch, factor, only=None):
        self.binary, self.scratch, self.factor, self.only = binary, scratch, factor, only
        self.orgs, self.proxies, self.callers = {}, {}, {}
        self.scenarios = [scenario for scenario in scenarios(factor == 1) if scenario.name in (only or [scenario.name])]
        # At full length nothing is hurried.
        self.pace = 1.0 if factor > 1 else 0.1
        self.began = time.monotonic()

    def say(self, text):
        print(f"{time.monotonic() - self.began:7.1f} s  {text}", flush=True)

    def start(self, closing):
        names = sorted({scenario.org for scenario in self.scenarios} | {"common"})
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            running = {name: pool.submit(PracticeOrg, self.binary, self.scratch / f"org-{name}") for name in names}
        for name, org in running.items():
            self.orgs[name] = org.result()
            closing.callback(self.orgs[name].stop)
        trusted = self.scratch / "ca.pem"
        trusted.write_text("".join(pathlib.Path(org.summary["ca_file"]).read_text() for org in self.orgs.values()))
        for scenario in self.scenarios:
            scenario.before(self)
            proxy = Proxy(self.binary, self.scratch / f"proxy-{scenario.name}", scenario.name, upstream={"ca_file": str(trusted)}, **scenario.make(self, scenario))
            self.proxies[scenario.name] = proxy
            closing.callback(proxy.stop)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(Proxy.start, self.proxies.values()))
        self.say(f"{len(self.orgs)} practice orgs and {len(self.proxies)} proxies run")
        for scenario in self.scenarios:
            proxy = self.proxies[scenario.name]
            callers = [Caller(proxy.ports[org], max(rate * self.pace, min(rate, 0.2)), call) for org, rate, call in scenario.flows]
            self.callers[scenario.name] = callers
            for caller in callers:
                caller.start()
                closing.callback(caller.stop)

    def targets(self):
        return [(scenario.job, self.proxies[scenario.name].admin) for scenario in self.scenarios]

    def past(self):
        """Calls and errors a second by (job, org), with the scenario's share of errors. Fewer calls than now, so that a slow machine that
        does not reach its rates has done enough all the same."""
        rates = {}
        for scenario in self.scenarios:
            for org, rate, _ in scenario.flows if scenario.past else []:
                calls, errors = rates.get((scenario.job, org), (0.0, 0.0))
                rate *= self.pace * PAST
                rates[scenario.job, org] = (calls + rate, errors + rate * scenario.past_errors)
        return rates

    # What scenarios ask for

    def gauge(self, proxy, name, org="main", **labels):
        return Metrics(proxy.metrics()).sum(name, org=org, **labels)

    def with_token(self, proxy):
        until = time.monotonic() + 30
        while self.gauge(proxy, "token_state", state="live") != 1:
            if time.monotonic() > until:
                raise Wrong(f"{proxy.name} has no token")
            time.sleep(0.05)
        return True

    def heal_flows(self, name):
        """Its callers call what works."""
        for caller in self.callers[name]:
            caller.call = get()


class Course:
    """How one scenario goes: waiting for its alerts, healed, over."""

    def __init__(self, scenario):
        self.scenario, self.seen, self.phase = scenario, {}, "waits" if scenario.must else "over"

    def step(self, stage, firing):
        """`firing`: its own alerts, as (alert, org)."""
        scenario, proxy = self.scenario, stage.proxies[self.scenario.name]
        for name in sorted(firing - self.seen.keys()):
            self.seen[name] = round(time.monotonic() - stage.began, 1)
            stage.say(f"{scenario.name}: {name[0]} fires{f' for {name[1]}' if name[1] else ''}")
        if wrong := firing - scenario.must - scenario.may:
            raise Wrong(f"{scenario.name}: fires and should not: {sorted(wrong)}")
        if self.phase == "waits":
            scenario.keep_on(stage, proxy)
            if scenario.must <= self.seen.keys():
                stage.say(f"{scenario.name}: all have fired; healed")
                scenario.heal(stage, proxy)
                self.phase = "heals"
        elif self.phase == "heals" and firing - scenario.may <= scenario.stays:
            stage.say(f"{scenario.name}: resolved{', but for what stays' if scenario.stays else ''}")
            self.phase = "over"


def judged(stage, prometheus, courses, extra=()):
    """One look: every scenario's own alerts, and nothing beside them."""
    firing = prometheus.firing()
    for (name, job, org), alert in firing.items():
        texts = " ".join(alert["annotations"].values())
        if any(sign in texts for sign in ("<no value>", "<error", "%!", "NaN")):
            raise Wrong(f"{name} is told badly: {texts}")
        if job not in {course.scenario.job for course in courses} and (name, job, org) not in extra:
            raise Wrong(f"fires and should not: {name}, job {job!r}, org {org!r}")
    for course in courses:
        course.step(stage, {(name, org) for name, job, org in firing if job == course.scenario.job})
    return firing


def wait(stage, what, until, step, done):
    deadline = time.monotonic() + until
    while not done():
        if time.monotonic() > deadline:
            raise Wrong(f"not in time: {what()}")
        began = time.monotonic()
        step()
        time.sleep(max(0.0, (0.5 if stage.factor > 1 else 5) - (time.monotonic() - began)))


def play(stage, prometheus, out):
    courses = [Course(scenario) for scenario in stage.scenarios]
    for scenario in stage.scenarios:
        scenario.fault(stage, stage.proxies[scenario.name])

    def open_ends():
        return "; ".join(
            f"{course.scenario.name} {course.phase}, not fired: {sorted(course.scenario.must - course.seen.keys())}"
            for course in courses if course.phase != "over"
        )

    wait(stage, open_ends, 240 if stage.factor > 1 else 3300, lambda: judged(stage, prometheus, courses),
         lambda: all(course.phase == "over" for course in courses))
    firing = prometheus.firing()
    for scenario in stage.scenarios:
        for name, org in scenario.stays:
            if (name, scenario.job, org) not in firing:
                raise Wrong(f"{scenario.name}: {name} resolved, though its long window is not over")
    if stage.only:
        return sum(len(course.seen) for course in courses)
    show(stage, prometheus, courses, out)

    stage.say("no target any more")
    prometheus.aim([])
    absent = set()

    def look():
        absent.clear()
        absent.update(judged(stage, prometheus, courses, extra={ABSENT}))

    wait(stage, lambda: "SfTokenProxyAbsent does not fire", 240 if stage.factor > 1 else 1200, look, lambda: ABSENT in absent)
    stage.say("SfTokenProxyAbsent fires")
    prometheus.aim(stage.targets())
    wait(stage, lambda: "SfTokenProxyAbsent does not resolve", 60, look, lambda: absent and ABSENT not in absent)
    stage.say("SfTokenProxyAbsent: resolved")
    return 1 + sum(len(course.seen) for course in courses)


def show(stage, prometheus, courses, out):
    """The dashboard over the run: no panel without data, no name that does not exist. What it showed is kept for the picture."""
    until = time.time()
    since = until - (time.monotonic() - stage.scraped)
    step = max(1, round((until - since) / 240))
    window = "10s" if stage.factor > 1 else "2m"
    shown, empty = [], []
    for title, expression in panels():
        asked = filled(expression, window)
        found = prometheus.ask("query_range", query=asked, start=since, end=until, step=step)["result"]
        if not any(value != "NaN" for series in found for _, value in series["values"]):
            empty.append(title)
        shown.append({"title": title, "query": asked, "series": found})
    if empty:
        raise Wrong(f"panels without data: {empty}")
    if unknowns := sorted(set(unknown([proxy.metrics() for proxy in stage.proxies.values()]))):
        raise Wrong("; ".join(unknowns))
    stage.say(f"{len(shown)} queries of the dashboard have data")
    out.mkdir(parents=True, exist_ok=True)
    fired = {course.scenario.name: {f"{name} {org}".strip(): at for (name, org), at in course.seen.items()} for course in courses}
    alerts = prometheus.ask("query_range", query='ALERTS{alertstate="firing"}', start=since, end=until, step=step)["result"]
    (out / "shown.json").write_text(json.dumps({"since": since, "until": until, "factor": stage.factor, "panels": shown, "alerts": alerts, "fired": fired}))


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bin", type=pathlib.Path, required=True)
    options.add_argument("--factor", type=float, default=60)
    options.add_argument("--full", action="store_true", help="factor 1")
    options.add_argument("--only", nargs="+", metavar="SCENARIO", help="only these, and neither the dashboard nor the absent targets: while you work on one")
    options.add_argument("--out", type=pathlib.Path, default=ROOT / "target/alerts/run")
    asked = options.parse_args()
    factor = 1.0 if asked.full else asked.factor
    binary = asked.bin.resolve()
    for tool in ("prometheus", "promtool"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: make tools")

    # Ended from outside, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAIL: ended"))
    # A failed run's logs and data stay to be looked at.
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="sf-alerts-"))
    with contextlib.ExitStack() as closing:
        try:
            stage = Stage(binary, scratch, factor, asked.only)
            stage.start(closing)
            rules = scratch / "rules.yaml"
            rules.write_text(scaled(RULES.read_text(), factor))
            interval = max(1, round(30 / factor))
            prometheus = Prometheus(scratch / "prometheus", rules, f"{interval}s")
            prometheus.past(interval, 3 * 86400 / factor, stage.past())
            prometheus.aim(stage.targets())
            closing.callback(prometheus.stop)
            prometheus.start()
            stage.scraped = time.monotonic()
            stage.say("Prometheus scrapes them")
            fired = play(stage, prometheus, asked.out)
        except (Wrong, RuntimeError, OSError, http.client.HTTPException) as error:
            sys.exit(f"FAIL: {error}\nlogs and data: {scratch}")
    shutil.rmtree(scratch)
    print(f"{fired} alerts fired as they should, nothing else")


if __name__ == "__main__":
    main()
