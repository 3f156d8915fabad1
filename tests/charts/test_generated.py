"""What is made from the charts is as the charts are now. UPDATE=1 writes it."""

import os
import re
import tomllib

import pytest
import yaml

import forms
from tools import ALL_CHARTS, KUSTOMIZE, ROOT, containers, kustomized, named, one, pod_specs, rendered, run, work

UPDATE = os.environ.get("UPDATE") == "1"
STALE = "is stale: run UPDATE=1 make charts"


def test_the_components_patches():
    wanted = forms.component_patches()
    if UPDATE:
        for name, text in wanted.items():
            (forms.COMPONENT / name).write_text(text)
            (work() / "kustomize/component" / name).write_text(text)
    there = {path.name: path.read_text() for path in forms.COMPONENT.glob("*.yaml") if path.name != "kustomization.yaml"}
    assert there == wanted, f"charts/kustomize/component {STALE}"


def test_the_snippet():
    if UPDATE:
        text = forms.DOCS.read_text()
        forms.DOCS.write_text(forms.SNIPPET.sub(lambda found: found[1] + forms.snippet() + found[3], text))
    assert forms.snippet_in_docs() == forms.snippet(), f"the snippet of docs/kubernetes.md {STALE}"


@pytest.mark.parametrize("chart", ALL_CHARTS)
def test_the_parameter_tables(chart):
    before, after = forms.readme(chart)
    if UPDATE:
        (ROOT / "charts" / chart / "README.md").write_text(after)
        before = after
    # Every value has its row: the generator fails for one without a comment, and for a comment without a value.
    assert "| Name" in after
    assert before == after, f"charts/{chart}/README.md {STALE}"


def test_the_three_forms_are_one():
    """Parsed, not as text: the chart, the component, the snippet and what the admission policy inserts."""
    container, volumes = forms.sidecar()
    parsed = yaml.safe_load(re.search(r"```yaml\n(.*?)```", forms.snippet_in_docs(), re.S)[1])
    assert parsed == {"initContainers": [container], "volumes": volumes}

    specs = dict(pod_specs(kustomized()))
    # The overlay gives the image its registry, and one workload a variable.
    container["image"] = container["image"].replace("sf-token-proxy", "registry.acme.example/sf-token-proxy")
    for name in ["StatefulSet/queue", "DaemonSet/agent", "Job/import", "CronJob/export"]:
        assert specs[name]["initContainers"] == [container], name
        assert specs[name]["volumes"] == volumes, name
    assert specs["Deployment/web"]["initContainers"][0] == {**container, "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.acme.example:3128"}]}
    assert [each["name"] for each in specs["Deployment/web"]["initContainers"]] == ["sf-token-proxy", "migrate"]
    assert specs["Deployment/web"]["volumes"] == volumes


def test_an_ordinary_release_differs_in_names_only():
    container, volumes = forms.sidecar()
    for name, spec in pod_specs(rendered("example", "workloads")):
        assert named(spec["initContainers"], "sf-token-proxy") == container, name
        ours = {volume["name"]: volume for volume in spec["volumes"]}
        ours["sf-token-proxy-config"]["configMap"]["name"] = "sf-token-proxy-config"
        ours["sf-token-proxy-credentials"]["secret"]["secretName"] = "sf-token-proxy-credentials"
        assert list(ours.values()) == volumes, name


def test_a_workload_without_the_label_is_left_alone():
    spec = dict(pod_specs(kustomized()))["Deployment/without-salesforce"]
    assert [container["name"] for container in containers(spec)] == ["app"]
    assert "volumes" not in spec


def test_the_components_objects_are_named_as_it_takes_them():
    docs = kustomized()
    one(docs, "ConfigMap", "sf-token-proxy-config")
    assert "config.yaml" in one(docs, "ConfigMap")["data"]


def test_kustomize_is_the_pinned_one():
    assert "kustomize/v4.5.4" in run(KUSTOMIZE, "version")


def test_versions_agree():
    """The program's, the charts' and the default tag: one number."""
    program = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    for chart in ALL_CHARTS:
        about = yaml.safe_load((ROOT / "charts" / chart / "Chart.yaml").read_text())
        assert about["appVersion"] == program, chart
        assert about["kubeVersion"] == ">=1.29.0-0", chart
        for dependency in about.get("dependencies", []):
            library = yaml.safe_load((ROOT / "charts" / dependency["name"] / "Chart.yaml").read_text())
            assert dependency["version"] == library["version"], chart
    for _, spec in pod_specs(rendered("example", "default")):
        assert named(spec["initContainers"], "sf-token-proxy")["image"] == f"sf-token-proxy:{program}"
