#!/usr/bin/env python3
"""Writes the Grafana dashboard from a compact table; `--check` says whether the file is what this makes.

    tests/alerts/dashboard.py             # writes charts/sf-token-proxy/files/dashboard.json
    tests/alerts/dashboard.py --check

A panel is: title, kind, unit, width in 24ths, description, then (legend, query) for each line. `$sel` stands for the selection by the variables.
"""

import json
import pathlib
import sys

FILE = pathlib.Path(__file__).resolve().parents[2] / "charts/sf-token-proxy/files/dashboard.json"
P = "sf_token_proxy_"
# `pod` is there in Kubernetes only; `.*` also matches what has no such label.
PROCESS = 'namespace=~"$namespace",job=~"$job",pod=~"$pod"'
SEL = PROCESS + ',org=~"$org"'
RATE = "$__rate_interval"
# Grafana makes four times this of it (or the data source's own, if that is longer): enough for a target that is scraped once a minute.
SCRAPED = "1m"
# Every process has such metrics, and every target is `up`: of all that Prometheus knows only ours. A proxy that is down tells no build_info,
# so targets are known as the rules know them.
OURS = f"and on (namespace, job, pod, instance) {P}build_info"
TARGETS = f'up{{{PROCESS},container="sf-token-proxy"}} or up{{{PROCESS},job=~".*sf-token-proxy.*"}}'


def by(labels, family, more="", fn="rate"):
    return f"sum by ({labels}) ({fn}({P}{family}{{{SEL}{more}}}[{RATE}]))"


def gauge(labels, family, more="", how="sum", sel=SEL):
    return f"{how} by ({labels}) ({P}{family}{{{sel}{more}}})"


def quantiles(family):
    return [
        (f"{name} {{{{org}}}}", f"histogram_quantile({q}, sum by (le, org) (rate({P}{family}_bucket{{{SEL}}}[{RATE}])))")
        for name, q in (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))
    ]


ROWS = [
    ("What users feel", [
        ("Calls", "timeseries", "reqps", 6, "Calls a second to each org, whatever came of them.", [("{{org}}", by("org", "requests_total"))]),
        ("How calls ended", "bars", "reqps", 6,
         "ok, and who is answerable for the rest: the org (client_error, upstream_error, timeout), the proxy (token_error, proxy_error), the caller (cancelled).",
         [("{{outcome}}", by("outcome", "requests_total"))]),
        ("Errors that count", "timeseries", "percentunit", 6,
         "Share of the calls that ended by the proxy's fault (token_error, proxy_error): the SLI. The objective allows 0.1 %. Over five minutes, as recorded by the rules.",
         [("{{org}}", f'namespace_job_org:{P}request_errors:ratio_rate5m{{namespace=~"$namespace",job=~"$job",org=~"$org"}}')]),
        ("Error budget left", "stat", "percentunit", 6,
         "Of the budget of 30 days (0.1 % of the calls), at the error rate of the last three days. 100 %: no error; below 0: more was spent than there was.",
         [("{{org}}", f'1 - namespace_job_org:{P}request_errors:ratio_rate3d{{namespace=~"$namespace",job=~"$job",org=~"$org"}} / 0.001')]),
        ("Duration of calls", "timeseries", "s", 8, "From the request's head to the last byte of the answer, the org's time and waits for a token within.", quantiles("request_duration_seconds")),
        ("The proxy's own share", "timeseries", "s", 8, "Overhead of a call: not the org's time, not waiting for a token.", quantiles("overhead_seconds")),
        ("Calls in flight", "timeseries", "short", 8, "Calls being answered now.", [("{{org}}", gauge("org", "requests_in_flight"))]),
    ]),
    ("Tokens", [
        ("State of the token", "state-timeline", "short", 12,
         "The number of proxies in each state. refused and failing: calls fail now. live_refused: they will when the token ends. live_renewal_failing: they may.",
         [("{{org}} {{state}}", gauge("org, state", "token_state"))]),
        ("Time to expiry", "timeseries", "s", 6, "Of the token that ends first. Below 0 it is used past its expiry. No line: no token.",
         [("{{org}}", f"min by (org) (({P}token_expiry_timestamp_seconds{{{SEL}}} > 0) - time())")]),
        ("Calls waiting for a token", "timeseries", "short", 6, "Up to token.refresh_wait each, token.max_waiters together.", [("{{org}}", gauge("org", "token_waiters"))]),
        ("Logins", "bars", "short", 6, "Logins tried, by result and reason.", [("{{org}} {{result}} {{reason}}", by("org, result, reason", "token_requests_total", fn="increase"))]),
        ("Duration of logins", "timeseries", "s", 6, "Conversations with the login host.", quantiles("token_request_duration_seconds")),
        ("Refusals by the org", "timeseries", "reqps", 6, "Answers of the org that said that the token is no good, by reason.", [("{{org}} {{reason}}", by("org, reason", "token_rejections_total"))]),
        ("Login budget left", "timeseries", "short", 6, "Logins allowed now, of the proxy that has the fewest. At 0 renewals wait.", [("{{org}}", gauge("org", "login_budget_remaining", how="min"))]),
        ("Past expiry", "timeseries", "short", 6, "Proxies that use a token past its known or assumed expiry.", [("{{org}}", gauge("org", "token_past_expiry"))]),
        ("Assumed life", "timeseries", "s", 6, "The setting, or less since the org refused a token earlier.", [("{{org}}", gauge("org", "token_assumed_lifetime_seconds", how="min"))]),
        ("Age of the token", "timeseries", "s", 6, "Of the oldest.", [("{{org}}", f"max by (org) (time() - ({P}token_minted_timestamp_seconds{{{SEL}}} > 0))")]),
        ("Sessions kept alive", "timeseries", "short", 6, "Calls made in place of a login (token.keep_alive), by result.", [("{{org}} {{result}}", by("org, result", "token_keep_alives_total", fn="increase"))]),
    ]),
    ("Repeats and refusals of ours", [
        ("Repeats", "timeseries", "reqps", 6, "Calls repeated, and what it brought. refused_again: the new token did not help.", [("{{org}} {{result}}", by("org, result", "retries_total"))]),
        ("Not repeatable", "timeseries", "reqps", 6, "Refused calls whose body was not kept, by cause.", [("{{reason}}", f"sum by (reason) (rate({P}replay_skipped_total{{{PROCESS}}}[{RATE}]))")]),
        ("Bodies kept", "timeseries", "bytes", 6, "Request body bytes kept for a repeat now; replay.total bounds them.", [("{{job}}", gauge("job", "replay_bytes", sel=PROCESS))]),
        ("Refused before a token was near", "timeseries", "reqps", 6, "Calls that the guard refused, by cause.", [("{{reason}}", f"sum by (reason) (rate({P}guard_refusals_total{{{PROCESS}}}[{RATE}]))")]),
    ]),
    ("The org", [
        ("Connections", "timeseries", "short", 8, "Open connections to the org, by what they do.", [("{{org}} {{state}}", gauge("org, state", "upstream_connections"))]),
        ("API calls of 24 hours used", "timeseries", "percentunit", 8, "As the org's answers say; all its clients share them.",
         [("{{org}}", f"max by (org) ({P}org_api_requests_used{{{SEL}}} / ({P}org_api_requests_limit{{{SEL}}} > 0))")]),
        ("API calls", "timeseries", "short", 8, "Used and allowed.", [("{{org}} used", gauge("org", "org_api_requests_used", how="max")), ("{{org}} limit", gauge("org", "org_api_requests_limit", how="max"))]),
    ]),
    ("Store, cache, users", [
        ("Uses of the store", "bars", "short", 6, "Reads and writes of the token store, by result.", [("{{operation}} {{result}}", by("operation, result", "store_operations_total", fn="increase"))]),
        ("Store up", "state-timeline", "short", 6, "1 while the last use of the store went well. No line: no store.", [("{{org}}", gauge("org", "store_up", how="min"))]),
        ("Tokens from the store", "timeseries", "short", 6, "Tokens taken from the store, without a login.", [("{{org}}", by("org", "tokens_adopted_total", fn="increase"))]),
        ("Users", "timeseries", "short", 6, "Users whose tokens are kept now (listeners[].users).", [("{{org}}", gauge("org", "user_tokens"))]),
        ("Cache", "bars", "reqps", 8, "Calls to paths whose answers are kept, by what came of them.", [("{{org}} {{result}}", by("org, result", "cache_requests_total"))]),
        ("Cache: bytes", "timeseries", "bytes", 8, "Of the answers kept now.", [("{{org}}", gauge("org", "cache_bytes"))]),
        ("Cache: answers", "timeseries", "short", 8, "Answers kept now.", [("{{org}}", gauge("org", "cache_entries"))]),
    ]),
    ("Process", [
        ("CPU", "timeseries", "percentunit", 6, "Of one core.", [("{{job}} {{pod}}", f"sum by (job, pod) (rate(process_cpu_seconds_total{{{PROCESS}}}[{RATE}]) {OURS})")]),
        ("Memory", "timeseries", "bytes", 6, "Resident.", [("{{job}} {{pod}}", f"sum by (job, pod) (process_resident_memory_bytes{{{PROCESS}}} {OURS})")]),
        ("File descriptors", "timeseries", "percentunit", 6, "Open, of those allowed.", [("{{job}} {{pod}}", f"max by (job, pod) (process_open_fds{{{PROCESS}}} / process_max_fds{{{PROCESS}}} {OURS})")]),
        ("Threads", "timeseries", "short", 6, "Of the process.", [("{{job}} {{pod}}", f"sum by (job, pod) (process_threads{{{PROCESS}}} {OURS})")]),
        ("Versions", "stat", "short", 6, "Proxies by version.", [("{{version}}", f"count by (version) ({P}build_info{{{PROCESS}}})")]),
        ("Scraped", "stat", "percentunit", 6, "Targets that answer, of all.", [("{{job}}", f"avg by (job) ({TARGETS})")]),
        ("Age", "timeseries", "s", 6, "Since the start of the process; a line that falls is a restart.", [("{{job}} {{pod}}", f"min by (job, pod) (time() - process_start_time_seconds{{{PROCESS}}} {OURS})")]),
        ("TLS handshakes that failed", "timeseries", "short", 6, "At listeners with TLS.", [("{{job}}", f"sum by (job) (increase({P}tls_handshake_failures_total{{{PROCESS}}}[{RATE}]))")]),
    ]),
    ("Reloads", [
        ("Reloads of the configuration", "bars", "short", 6, "By result.", [("{{result}}", f"sum by (result) (increase({P}config_reloads_total{{{PROCESS}}}[{RATE}]))")]),
        ("Last reload went well", "state-timeline", "short", 6, "The worst of the proxies of a job. 0: the changed configuration is not taken.", [("{{job}}", gauge("job", "config_last_reload_successful", how="min", sel=PROCESS))]),
        ("Reloads of secrets", "bars", "short", 6, "By org and result.", [("{{org}} {{result}}", by("org, result", "secret_reloads_total", fn="increase"))]),
        ("Last secret is in use", "state-timeline", "short", 6, "0: the changed secret cannot be used.", [("{{org}}", gauge("org", "secret_last_reload_successful", how="min"))]),
        ("Configuration in use since", "timeseries", "s", 8, "Age of the oldest.", [("{{job}}", f"max by (job) (time() - ({P}config_last_reload_success_timestamp_seconds{{{PROCESS}}} > 0))")]),
        ("Secret in use since", "timeseries", "s", 8, "Age of the oldest.", [("{{org}}", f"max by (org) (time() - ({P}secret_last_reload_success_timestamp_seconds{{{SEL}}} > 0))")]),
        ("Certificate of a listener ends in", "timeseries", "s", 8, "The one that ends first.",
         [("{{job}} {{listener}}", f"min by (job, listener) (({P}listener_certificate_expiry_timestamp_seconds{{{PROCESS}}} > 0) - time())")]),
    ]),
]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HEIGHT = 8


def panel(number, title, kind, unit, width, description, targets, x, y):
    custom = {}
    if kind in ("timeseries", "bars"):
        custom = {"drawStyle": "line" if kind == "timeseries" else "bars", "fillOpacity": 10 if kind == "timeseries" else 60, "lineWidth": 1, "showPoints": "never"}
        if kind == "bars":
            custom["stacking"] = {"mode": "normal", "group": "A"}
    if kind == "state-timeline":
        custom = {"fillOpacity": 70, "lineWidth": 0}
    options = {
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "textMode": "auto", "colorMode": "value"},
        "state-timeline": {"mergeValues": True, "showValue": "auto", "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}},
    }.get(kind, {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi", "sort": "desc"}})
    return {
        "id": number, "title": title, "type": "timeseries" if kind == "bars" else kind, "description": description, "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit, "custom": custom}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend, "range": kind != "stat", "instant": kind == "stat"}
            | ({"interval": SCRAPED} if RATE in expr else {})
            for n, (legend, expr) in enumerate(targets)
        ],
    }


def variable(name, label, query):
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name}, "definition": query,
        "includeAll": True, "allValue": ".*", "multi": True, "refresh": 2, "sort": 1, "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard():
    panels, y, number = [], 0, 0
    for title, row in ROWS:
        number += 1
        panels.append({"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        x, y = 0, y + 1
        for entry in row:
            number += 1
            width = entry[3]
            if x + width > 24:
                x, y = 0, y + HEIGHT
            panels.append(panel(number, *entry, x, y))
            x += width
        y += HEIGHT
    selected = f"{P}build_info"
    return {
        "uid": "sf-token-proxy", "title": "sf-token-proxy", "description": "Calls to Salesforce through sf-token-proxy: what users feel first, then why.",
        "tags": ["sf-token-proxy", "salesforce"], "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "1m",
        "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "annotations": {"list": []}, "links": [],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
            variable("namespace", "Namespace", f"label_values({selected}, namespace)"),
            variable("job", "Job", f'label_values({selected}{{namespace=~"$namespace"}}, job)'),
            variable("pod", "Pod", f'label_values({selected}{{namespace=~"$namespace",job=~"$job"}}, pod)'),
            variable("org", "Org", f'label_values({P}token_state{{namespace=~"$namespace",job=~"$job"}}, org)'),
        ]},
        "panels": panels,
    }


def main():
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv:
        if FILE.read_text() != text:
            sys.exit(f"{FILE.name} is stale: run tests/alerts/dashboard.py")
        return
    FILE.write_text(text)


if __name__ == "__main__":
    main()
