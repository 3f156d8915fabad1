#!/usr/bin/env python3
"""All that can be said of rules, runbooks and dashboard without running anything; `--update` writes what is generated.

Checked: promtool takes the rules, also scaled, and its unit tests pass; every alert has its annotations, its page and its unit test, and every page an
alert; tables and dashboard are not stale; every expression of the dashboard parses. Names of metrics and labels are checked by live.py.
"""

import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

from dashboard import FILE as DASHBOARD_FILE
from dashboard import dashboard
from scale import PLACES, scaled, seconds, skeleton
from words import MONITORING, ROOT, RULES, RUNBOOKS, alerts, filled, panels

HERE = pathlib.Path(__file__).resolve().parent
INDEX = RUNBOOKS / "README.md"
PAGE_PARTS = ["## What users feel", "## First look", "```promql", "`kubectl port-forward POD 9090` and `curl localhost:9090/status`", "## Causes", "## Escalate", "## Silence"]

problems = []


def must(true, problem):
    if not true:
        problems.append(problem)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    must(done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")


def of_any(summary):
    """A summary as a sentence about no org in particular."""
    text = re.sub(r"(?:Salesforce )?org \{\{ \$labels\.org \}\}", "an org", summary)
    return text[0].upper() + text[1:]


def table(link):
    lines = ["| Alert | Severity | For | What |", "|---|---|---|---|"]
    for alert in alerts():
        name = alert["alert"]
        lines.append(f"| [{name.removeprefix('SfTokenProxy')}]({link}{name}.md) | {alert['labels']['severity']} | {alert.get('for', '')} | {of_any(alert['annotations']['summary'])} |")
    return "\n".join(lines) + "\n"


def index():
    return (
        "# Runbooks\n\nOne page for each alert of [the rules](../../charts/sf-token-proxy/files/rules.yaml): what it means, what users feel, where to look first, what to do. "
        "The names begin with `SfTokenProxy`. How alerts are loaded and routed: [monitoring](../monitoring.md).\n\n" + table("")
    )


def generated():
    """File and text of what is made from the rules."""
    text = MONITORING.read_text()
    begin, end = "<!-- table alerts -->\n", "<!-- end -->"
    head, rest = text.split(begin)
    yield MONITORING, head + begin + table("runbooks/") + end + rest.split(end, 1)[1]
    yield INDEX, index()
    yield DASHBOARD_FILE, json.dumps(dashboard(), indent=1) + "\n"


def check_annotations():
    severities = set()
    files = sorted(HERE.glob("rules_*test.yaml"))
    tested = "".join(file.read_text() for file in files)
    worded = {case["alertname"] for file in files for test in yaml.safe_load(file.read_text())["tests"] for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    for alert in alerts():
        name, notes = alert["alert"], alert["annotations"]
        must(name.startswith("SfTokenProxy"), f"{name}: has another beginning")
        must(set(notes) == {"summary", "description", "runbook_url"}, f"{name}: annotations are {sorted(notes)}")
        must(notes["runbook_url"] == f"docs/runbooks/{name}.md", f"{name}: runbook_url is {notes['runbook_url']}")
        must("$value" in notes["description"] or name == "SfTokenProxyAbsent", f"{name}: no value in its description")
        must("for" in alert, f"{name}: no `for`")
        must(f'alertname="{name}"' in tested, f"{name}: no unit test says that it fires")
        must(name in worded, f"{name}: no unit test says with which words it fires")
        severities.add(alert["labels"]["severity"])
    must(severities == {"page", "ticket"}, f"severities are {severities}")
    # The reason of a `for` stands before it.
    lines = RULES.read_text().splitlines()
    for before, line in zip(lines, lines[1:]):
        if line.lstrip().startswith("for: "):
            must(before.lstrip().startswith("#"), f"no reason before {line.strip()}")


def check_pages():
    names = {alert["alert"] for alert in alerts()}
    pages = {page.stem: page for page in RUNBOOKS.glob("*.md") if page != INDEX}
    must(names == set(pages), f"pages without alert, or alerts without page: {sorted(names ^ set(pages))}")
    severity = {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}
    for name, page in pages.items():
        text = page.read_text()
        must(text.startswith(f"# {name}\n"), f"{page.name}: another title")
        must(f"**{severity.get(name, '').capitalize()}.**" in text, f"{page.name}: another severity")
        for part in PAGE_PARTS:
            must(part in text, f"{page.name}: no {part}")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            must((page.parent / target).exists(), f"{page.name}: links to {target}")


def check_reasons():
    """Each reason of a failed login is in the page of those that need somebody, or in that of those that may pass; by its class."""
    needs, may = (re.search(r"## Causes\n(.*?)\n## ", (RUNBOOKS / f"SfTokenProxy{name}.md").read_text(), re.DOTALL)[1] for name in ("CredentialsRefused", "NoToken"))
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", (ROOT / "docs/tokens.md").read_text(), re.MULTILINE)
    must(len(rows) > 40, "docs/tokens.md: its table of reasons was not found")
    for reason, kind in rows:
        page, other = (may, needs) if kind in ("transient", "rate limited") else (needs, may)
        must(f"`{reason}`" in page and f"`{reason}`" not in other, f"{reason}, which is {kind}, is not in its runbook alone")


def check_scale(scratch):
    text = RULES.read_text()
    for factor in (60, 7):
        small = scaled(text, factor)
        must(skeleton(small) == skeleton(text), f"factor {factor} changes more than durations")
        spans = [[seconds(found[0][len(found["before"]):]) for found in PLACES.finditer("\n".join(line for line in each.splitlines() if not line.lstrip().startswith("#")))] for each in (text, small)]
        must(len(spans[0]) == len(spans[1]) > 35 and all(abs(a / factor - b) < 0.001 for a, b in zip(*spans)), f"factor {factor} does not divide every duration")
        (scratch / f"scaled{factor}.yaml").write_text(small)
        run("promtool", "check", "rules", scratch / f"scaled{factor}.yaml")
    must(scaled(text, 1) == text, "factor 1 changes the rules")


def check_selection(scratch):
    """With All everywhere the panels show the proxies, of a Prometheus that knows more: with others alone nothing, with both the proxies alone."""
    expressions = {title: filled(expression, "4m") for title, expression in panels()}
    foreign = re.compile(r"\b(?:up|process_\w+)(?={)")
    names = sorted({name for expression in expressions.values() for name in foreign.findall(expression)})
    must(len(names) > 5, f"the dashboard speaks of no process: {names}")
    others = [{"series": f'{name}{{job="node", namespace="x", pod="node-1", instance="1:9100"}}', "values": "5+1x20"} for name in names]
    ours = [{"series": f'{name}{{job="sf-token-proxy", instance="2:9090"}}', "values": "5+1x20"} for name in [*names, "sf_token_proxy_build_info"]]
    # One that is down: a target, and no process.
    ours.append({"series": 'up{job="shop", namespace="shop", pod="web-1", container="sf-token-proxy", instance="3:9090"}', "values": "0x20"})
    of_processes = {title: expression for title, expression in expressions.items() if foreign.search(expression)}
    tests = [
        {"name": "others alone", "interval": "1m", "input_series": others, "promql_expr_test": [{"expr": expression, "eval_time": "10m", "exp_samples": []} for expression in expressions.values()]},
        {"name": "both", "interval": "1m", "input_series": others + ours, "promql_expr_test": [
            {"expr": f"count by (job) ({expression})", "eval_time": "10m", "exp_samples": [{"labels": f'{{job="{job}"}}', "value": 1} for job in (["sf-token-proxy", "shop"] if title == "Scraped" else ["sf-token-proxy"])]}
            for title, expression in of_processes.items()
        ]},
    ]
    (scratch / "selection.yaml").write_text(json.dumps({"rule_files": [], "evaluation_interval": "1m", "tests": tests}))
    run("promtool", "test", "rules", scratch / "selection.yaml")


def check_panels(scratch):
    board = dashboard()
    for panel in board["panels"]:
        if panel["type"] != "row":
            must(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] and panel["targets"], f"panel {panel['title']}: no description, unit or query")
    must(len({panel["id"] for panel in board["panels"]}) == len(board["panels"]), "panels share an id")
    for title, target in ((panel["title"], target) for panel in board["panels"] for target in panel.get("targets", [])):
        must(target.get("interval") == "1m" or "$__rate_interval" not in target["expr"], f"panel {title}: has no data where targets are scraped once a minute")
    check_selection(scratch)
    rules = [{"record": f"panel:{n}", "expr": filled(expression, "5m")} for n, (_, expression) in enumerate(panels())]
    # JSON is YAML.
    (scratch / "panels.yaml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    run("promtool", "check", "rules", scratch / "panels.yaml")
    queries = []
    for page in [*RUNBOOKS.glob("*.md"), MONITORING]:
        for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL):
            queries += [line for line in block.splitlines() if line and not line.startswith("#")]
    (scratch / "queries.yaml").write_text(json.dumps({"groups": [{"name": "queries", "rules": [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]}]}))
    run("promtool", "check", "rules", scratch / "queries.yaml")


def main():
    if "--update" in sys.argv:
        for file, text in generated():
            file.write_text(text)
        return
    for file, text in generated():
        must(file.exists() and file.read_text() == text, f"{file.relative_to(ROOT)} is stale: tests/alerts/check.py --update")
    check_annotations()
    check_pages()
    check_reasons()
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(2) as pool:
        scratch = pathlib.Path(scratch)
        check_scale(scratch)
        check_panels(scratch)
        run("promtool", "check", "rules", RULES)
        run("amtool", "check-config", ROOT / "docs/alertmanager.yml")
        list(pool.map(lambda file: run("promtool", "test", "rules", file), sorted(HERE.glob("rules_*test.yaml"))))
    if problems:
        sys.exit("\n".join(f"FAIL: {problem}" for problem in problems))
    print(f"{len(alerts())} alerts, {len(panels())} queries of the dashboard: checked")


if __name__ == "__main__":
    main()
