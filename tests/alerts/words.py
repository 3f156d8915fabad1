"""What rules, runbooks and dashboard speak of: expressions, names of metrics, labels and their values. For the checks."""

import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "charts/sf-token-proxy/files/rules.yaml"
DASHBOARD = ROOT / "charts/sf-token-proxy/files/dashboard.json"
RUNBOOKS = ROOT / "docs/runbooks"
MONITORING = ROOT / "docs/monitoring.md"

# Values that a label has only once something has happened are taken from the README's tables, which are tested against the code.
LABELS_TABLE = re.compile(r"<!-- table labels -->\n(.*?)<!-- end -->", re.DOTALL)
METRIC = re.compile(r"(?<![:\w])(sf_token_proxy_[a-z_]+|process_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"')


def rules():
    """Every rule, in order."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def panels():
    """(title, expression) of each line of each panel."""
    board = json.loads(DASHBOARD.read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]


def filled(expression, rate_interval):
    """As Grafana would with All everywhere."""
    return re.sub(r"\$(?:namespace|job|pod|org)\b", ".*", expression.replace("$__rate_interval", rate_interval))


def spoken():
    """(where, metric, {label: values}) of everything that names one."""
    texts = [("rules.yaml", rule["expr"]) for rule in rules()]
    texts += [(f"dashboard: {title}", filled(expression, "5m")) for title, expression in panels()]
    texts += [(page.name, page.read_text()) for page in [*sorted(RUNBOOKS.glob("*.md")), MONITORING]]
    for where, text in texts:
        for found in METRIC.finditer(text):
            labels = {label: values.split("|") for label, values in MATCHER.findall(found[2] or "") if "*" not in values and "$" not in values}
            yield where, found[1], labels


def exposed(pages):
    """From /metrics of several proxies: {metric: {label: values}}."""
    known = {}
    for page in pages:
        for name, labels in re.findall(r"^(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$", page, re.MULTILINE):
            family = known.setdefault(name, {})
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
                family.setdefault(label, set()).add(value)
    return known


# Given by Prometheus and Kubernetes, not by us.
OUTSIDE = {"namespace", "job", "instance", "pod", "container"}
# Names of the reader's own.
OWN = {"org", "listener", "version"}


def unknown(pages):
    """What is named and does not exist, in words."""
    known = exposed(pages)
    table = (ROOT / "README.md").read_text()
    listed = set(re.findall(r"`([a-z0-9_]+)`", LABELS_TABLE.search(table)[1]))
    for where, metric, labels in spoken():
        metric = re.sub(r"_(bucket|sum|count)$", "", metric)
        if metric not in known:
            yield f"{where}: there is no metric {metric}"
            continue
        for label, values in labels.items():
            if label in OUTSIDE:
                continue
            if label not in known[metric]:
                yield f"{where}: {metric} has no label {label}"
            elif label not in OWN:
                yield from (f"{where}: {metric} has no {label}={value}" for value in values if value not in known[metric][label] | listed)
