"""What a cluster has once: rules, dashboard and scraping from the files that Prometheus and Grafana take as they are. And what the notes say."""

import json
import re

import pytest
import yaml

from tools import HELMS, ROOT, ci_values, one, rendered, values_of, work

FILES = ROOT / "charts/sf-token-proxy/files"


def alerts(docs):
    return [rule for group in one(docs, "PrometheusRule")["spec"]["groups"] for rule in group["rules"] if "alert" in rule]


def test_the_rules_are_the_files_but_for_the_runbooks():
    source = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
    made = one(rendered("sf-token-proxy", "everything"), "PrometheusRule")["spec"]["groups"]
    assert made == source, "with the default address, which is the file's"
    moved = one(rendered("sf-token-proxy", "alerts"), "PrometheusRule")["spec"]["groups"]
    text = json.dumps(source).replace('"runbook_url": "docs/runbooks/', '"runbook_url": "https://docs.acme.example/sf-token-proxy/runbooks/')
    assert moved == json.loads(text)


def test_every_alert_has_a_runbook():
    rules = alerts(rendered("sf-token-proxy", "alerts"))
    assert rules
    for rule in rules:
        assert rule["annotations"]["runbook_url"] == f"https://docs.acme.example/sf-token-proxy/runbooks/{rule['alert']}.md"


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_alerts_can_be_left_out(helm):
    def rules(**values):
        spec = one(helm.render("sf-token-proxy", {"prometheusRule": {"enabled": True, **values}}), "PrometheusRule")["spec"]
        assert all(group["rules"] for group in spec["groups"])
        return [rule for group in spec["groups"] for rule in group["rules"]]

    every = rules()
    absent = rules(disabled=["SfTokenProxyAbsent"])
    assert [rule for rule in every if rule not in absent] == [rule for rule in every if rule.get("alert") == "SfTokenProxyAbsent"] != []
    # Recorded rules stay, those that are alerted on by others as well.
    names = sorted({rule["alert"] for rule in every if "alert" in rule})
    assert rules(disabled=names) == [rule for rule in every if "alert" not in rule] != []
    assert rules(disabled=[]) == every


def test_the_runbooks_advice_is_a_value():
    text = (ROOT / "docs/runbooks/SfTokenProxyAbsent.md").read_text()
    [name] = re.findall(r"`prometheusRule\.disabled: \[(\w+)\]`", text)
    assert HELMS[0].render("sf-token-proxy", {"prometheusRule": {"enabled": True, "disabled": [name]}})


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_names_of_namespaces_count_whatever_else_is_said(helm):
    def selector(given):
        return one(helm.render("sf-token-proxy", {"podMonitor": {"enabled": True, "namespaceSelector": given}}), "PodMonitor")["spec"]["namespaceSelector"]

    for given in [{"matchNames": ["a", "b"]}, {"any": True, "matchNames": ["a", "b"]}, {"any": False, "matchNames": ["a", "b"]}]:
        assert selector(given) == {"matchNames": ["a", "b"]}
    assert selector({}) == selector({"any": True}) == selector({"matchNames": []}) == selector(None) == {"any": True}
    assert selector({"any": False}) == {"any": False}


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_no_selector_is_the_default_one(helm):
    """An empty one takes all pods in the cluster's chart, whose container is looked at besides; the library's is that of the release's chart."""
    assert one(helm.render("sf-token-proxy", {"podMonitor": {"enabled": True, "selector": None}}), "PodMonitor")["spec"]["selector"] == {}
    for given in [{}, {"selector": None}, {"selector": {}}]:
        spec = one(helm.render("example", {"nameOverride": "crm", "sfTokenProxy": {"podMonitor": {"enabled": True, **given}}}), "PodMonitor")["spec"]
        assert spec["selector"] == {"matchLabels": {"app.kubernetes.io/name": "crm", "app.kubernetes.io/instance": "r"}}
    mine = {"matchLabels": {"team": "crm"}}
    assert one(helm.render("example", {"sfTokenProxy": {"podMonitor": {"enabled": True, "selector": mine}}}), "PodMonitor")["spec"]["selector"] == mine


def test_the_dashboard_is_the_file():
    made = one(rendered("sf-token-proxy", "dashboard"), "ConfigMap")
    assert json.loads(made["data"]["sf-token-proxy.json"]) == json.loads((FILES / "dashboard.json").read_text())
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Salesforce"}
    assert made["metadata"]["namespace"] == "monitoring"


def test_labels_by_which_prometheus_picks():
    for name in ["alerts", "podmonitor"]:
        for document in rendered("sf-token-proxy", name):
            assert document["metadata"]["labels"]["release"] == "prometheus"
    everything = rendered("sf-token-proxy", "everything")
    assert {document["metadata"]["labels"].get("team") for document in everything if document["metadata"]["name"] != "r-extra"} == {"platform"}


@pytest.mark.parametrize("chart, name, selector", [("example", "podmonitor", {"matchLabels": {"app.kubernetes.io/name": "example", "app.kubernetes.io/instance": "r"}}), ("sf-token-proxy", "podmonitor", {"matchLabels": {"team": "crm"}}), ("sf-token-proxy", "everything", {})])
def test_scraping(chart, name, selector):
    spec = one(rendered(chart, name), "PodMonitor")["spec"]
    assert spec["selector"] == selector
    [endpoint] = spec["podMetricsEndpoints"]
    # The container's port by its name, and of containers that call one so only ours.
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    assert endpoint["relabelings"][0] == {"action": "keep", "sourceLabels": ["__meta_kubernetes_pod_container_name"], "regex": "sf-token-proxy"}
    # One for all apps would make them one job; the alerts are one for each job.
    assert spec.get("jobLabel") == (None if chart == "example" else "app.kubernetes.io/name")
    if chart == "sf-token-proxy":
        assert spec["namespaceSelector"] == ({"matchNames": ["crm"]} if name == "podmonitor" else {"any": True})
    if name == "podmonitor":
        assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("30s", "10s")
        assert endpoint["relabelings"][1:] == [{"action": "replace", "targetLabel": "team", "replacement": "crm"}]
        assert endpoint["metricRelabelings"] == [{"action": "drop", "sourceLabels": ["__name__"], "regex": "process_.*"}]


def test_targets_are_known_to_the_alerts_whatever_their_job_is_called():
    """The chart's own jobLabel makes the job "shop": the rules have to know the target by its container, which the PodMonitor keeps by its name."""
    for rule in alerts(rendered("sf-token-proxy", "everything")):
        if rule["alert"] in ("SfTokenProxyTargetDown", "SfTokenProxyAbsent"):
            assert 'up{container="sf-token-proxy"}' in rule["expr"]


def test_the_examples_pods_are_those_that_are_scraped():
    docs = rendered("example", "podmonitor")
    wanted = one(docs, "PodMonitor")["spec"]["selector"]["matchLabels"].items()
    for kind in ["Deployment", "Job"]:
        assert wanted <= one(docs, kind)["spec"]["template"]["metadata"]["labels"].items()


def test_nothing_is_made_unless_it_is_enabled():
    assert rendered("sf-token-proxy", "default") == []


# Notes. Only Helm 4 shows them without a cluster


def notes(chart, name):
    return HELMS[1].notes(chart, values_of(chart, name))


@pytest.mark.parametrize("chart, name", ci_values())
def test_notes_name_what_is_there(chart, name):
    """Every command is one of kubectl or helm, and every object that it names is rendered, or is one that the values say exists."""
    text = notes(chart, name)
    assert text and "<no value>" not in text and "%!" not in text and "\n\n\n" not in text
    docs = rendered(chart, name)
    there = {f"{document['kind'].lower()}/{document['metadata']['name']}" for document in docs}
    proxy = {**yaml.safe_load((work() / chart / "values.yaml").read_text())["sfTokenProxy"], **values_of(chart, name).get("sfTokenProxy", {})}
    given = {f"secret/{proxy.get('existingSecret')}", f"configmap/{proxy.get('existingConfigMap')}"}
    commands = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    assert commands
    for command in commands:
        assert re.match(r"(kubectl|helm) ", command), command
        if found := re.search(r"\b(deployment)/(\S+)", command) or re.search(r"get (secret|configmap|podmonitor|prometheusrule) (\S+)", command):
            assert f"{found[1]}/{found[2]}" in there | given, command
        if "helm test" in command:
            assert [document for document in docs if document["kind"] == "Pod" and document["metadata"]["annotations"]["helm.sh/hook"] == "test"]
        if found := re.search(r"--container (\S+)", command):
            assert found[1] == "sf-token-proxy"


def test_notes_of_the_features():
    assert "Does the credential work?" in notes("example", "default") and "Does the credential work?" not in notes("example", "https-only")
    classic = HELMS[1].notes("example", {"sfTokenProxy": {"config": None, "existingConfigMap": "c", "classic": {"enabled": True}}})
    assert "ConfigMap c has to have shutdown.delay (5s), and admin.quit_endpoint: true" in classic and "sfTokenProxy.quitEndpoint" not in classic
    assert "http://localhost:18080" in notes("example", "ports") and "19090:19090" in notes("example", "ports")
    assert "Not for production" in notes("example", "chart-made-secret")
    assert "/quit" in notes("example", "classic") and "helm test" not in notes("example", "classic")
    assert "kubectl label namespace NAMESPACE acme.example/salesforce=yes" in notes("sf-token-proxy", "admission-policy-beta")
    assert "Nothing was made" in notes("sf-token-proxy", "default") and "Nothing was made" not in notes("sf-token-proxy", "everything")
