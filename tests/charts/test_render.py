"""Every chart with every one of its ci files: linted, rendered by both Helms to the same, and taken by the schemas of Kubernetes."""

import functools
import json

import helm_python
import kubernetes_validate
import kubernetes_validate.utils
import pytest

from tools import ALL_CHARTS, CHARTS, HELM3, HELMS, ROOT, TOOLS, Refused, ci_values, kustomized, rendered, run, values_of, work

# It would read the same files for every document anew.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
kubernetes_validate.utils.all_versions = functools.cache(kubernetes_validate.utils.all_versions)

CASES = [pytest.param(chart, name, id=f"{chart}:{name}") for chart, name in ci_values()]
OLDEST = "1.29"
NEWEST = kubernetes_validate.latest_version().rsplit(".", 1)[0]
OPERATOR = "monitoring.coreos.com/v1"
# Where a kind first is in the schemas, if not in the oldest.
SINCE = {"admissionregistration.k8s.io/v1beta1": "1.34", "admissionregistration.k8s.io/v1": "1.36"}


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
@pytest.mark.parametrize("chart, name", CASES)
def test_lint(helm, chart, name):
    helm.lint(chart, values_of(chart, name))


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_lint_of_the_library(helm):
    helm.lint("sf-token-proxy-lib", {})


def in_order(docs):
    return sorted(docs, key=lambda document: (document["kind"], document["metadata"]["name"]))


@pytest.mark.parametrize("chart, name", CASES)
def test_both_helms_render_the_same(chart, name):
    three, four = (in_order(rendered(chart, name, helm)) for helm in HELMS)
    assert three == four
    assert three or (chart, name) == ("sf-token-proxy", "default")
    # Twice the same object would be one of them lost.
    names = [(document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"]) for document in three]
    assert len(names) == len(set(names))


def versions(document):
    """The versions of Kubernetes whose schema is to take it."""
    if document["kind"].startswith("MutatingAdmissionPolicy"):
        since = SINCE[document["apiVersion"]]
        return [since] if since == NEWEST else [since, NEWEST]
    return [OLDEST, NEWEST]


def schema_problems(docs):
    problems = []
    for document in docs:
        if document["apiVersion"] == OPERATOR:
            continue
        for version in versions(document):
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                problems.append(f"{version} {document['kind']}/{document['metadata']['name']}: {error.message}")
    return problems


@pytest.mark.parametrize("chart, name", CASES)
def test_kubernetes_schemas(chart, name):
    assert schema_problems(rendered(chart, name)) == []


def test_kubernetes_schemas_of_the_overlay():
    assert schema_problems(kustomized()) == []


def test_the_schemas_tell_a_wrong_document():
    deployment = next(document for document in rendered("example", "default") if document["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["initContainers"][0]["restartPolicies"] = "Always"
    assert len(schema_problems([deployment])) == 2
    assert "find schema" in schema_problems([{"apiVersion": "example.org/v1", "kind": "Unknown", "metadata": {"name": "x"}}])[0]


def operator_problems(docs):
    return run("node", ROOT / "tests/charts/operator.mjs", input=json.dumps(docs), cwd=TOOLS).splitlines()


def test_the_operators_schemas():
    docs = [document for chart, name in ci_values() for document in rendered(chart, name) if document["apiVersion"] == OPERATOR]
    assert {document["kind"] for document in docs} == {"PodMonitor", "PrometheusRule"}
    assert operator_problems(docs) == []
    wrong = {"apiVersion": OPERATOR, "kind": "PodMonitor", "metadata": {"name": "wrong"}, "spec": {"selector": {}, "podMetricsEndpoints": [{"interval": "soon"}]}}
    assert "interval" in operator_problems([wrong])[0]


def test_every_template_is_rendered_by_some_case():
    """A feature without a ci file would be one that nobody has seen."""
    kinds = {document["kind"] for chart, name in ci_values() for document in rendered(chart, name)}
    assert kinds == {
        *("Deployment", "Job", "CronJob", "Pod", "ConfigMap", "Secret"),
        *("PodMonitor", "PrometheusRule", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"),
    }


@pytest.mark.parametrize("chart", CHARTS)
def test_an_older_kubernetes_is_refused(chart):
    """Native sidecars are on by default from 1.29."""
    with pytest.raises(Refused, match="kubeVersion"):
        run(HELM3, "template", "r", work() / chart, "--kube-version", "1.28.15")
    assert run(HELM3, "template", "r", work() / chart, "--kube-version", "1.29.0", "--include-crds") or chart == "sf-token-proxy"


@pytest.mark.parametrize("chart", ALL_CHARTS)
def test_packages(chart, tmp_path):
    """What is published: with the dependency and the files inside, and without what is there for tests."""
    with helm_python.Chart.load(work() / chart) as loaded:
        archive = loaded.save(tmp_path)
    with helm_python.Chart.load(archive) as loaded:
        files = {file["name"] for file in loaded.files}
        assert not [name for name in files if name.startswith("ci/")]
        assert "README.md" in files and (chart != "sf-token-proxy" or {"files/rules.yaml", "files/dashboard.json"} <= files)
        assert len(loaded.dependencies) == (chart in CHARTS)


@pytest.mark.parametrize("chart", ALL_CHARTS)
def test_the_schemas_draft(chart):
    schema = json.loads((ROOT / "charts" / chart / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["additionalProperties"] is False
