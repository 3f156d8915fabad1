"""docs/kubernetes.md can be done as it is written: its documents are valid, its steps fit together, its names are those of the charts."""

import re

import pytest
import yaml

from test_pods import test_pod_security_restricted as restricted
from test_render import schema_problems
from tools import HELMS, ROOT, containers, one, pod_spec

PAGE = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
# Those of tools that the schemas do not know.
OTHERS = {"Kustomization"}
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: app
          image: my-app:1.0
          securityContext:
            runAsNonRoot: true
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
"""


def yaml_blocks():
    return [text for language, text in BLOCKS if language == "yaml"]


def test_every_document_is_valid():
    docs = [document for text in yaml_blocks() for document in yaml.safe_load_all(text) if isinstance(document, dict) and "kind" in document and document["kind"] not in OTHERS]
    assert {document["kind"] for document in docs} == {"ConfigMap", "NetworkPolicy"}
    assert schema_problems(docs) == []


def test_the_five_minutes():
    """The snippet pasted above `containers:`, the env at the container's end: letter for letter."""
    snippet = next(text for text in yaml_blocks() if text.lstrip().startswith("initContainers:"))
    env = next(text for text in yaml_blocks() if text.lstrip().startswith("env:"))
    pasted = yaml.safe_load(DEPLOYMENT.replace("      containers:\n", snippet + "      containers:\n") + env)
    assert schema_problems([pasted]) == []
    spec = pod_spec(pasted)
    restricted(spec)
    assert [container["name"] for container in containers(spec)] == ["sf-token-proxy", "app"]
    assert spec["containers"][0]["env"] == [{"name": "SALESFORCE_URL", "value": "http://localhost:8080"}]

    # What it mounts is what the steps before have made.
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    made = yaml.safe_load(next(text for text in yaml_blocks() if "kind: ConfigMap" in text))
    assert volumes["sf-token-proxy-config"]["configMap"]["name"] == made["metadata"]["name"]
    secret = volumes["sf-token-proxy-credentials"]["secret"]["secretName"]
    assert f"kubectl create secret generic {secret} --from-file=client-secret\n" in PAGE
    assert "file:/var/run/secrets/sf-token-proxy/client-secret" in made["data"]["config.yaml"]
    assert {"/etc/sf-token-proxy", "/var/run/secrets/sf-token-proxy"} == {mount["mountPath"] for mount in spec["initContainers"][0]["volumeMounts"]}


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_values_of_the_page_are_taken(helm):
    found = [yaml.safe_load(text) for text in yaml_blocks() if "sfTokenProxy:" in text and "dependencies:" not in text]
    assert len(found) == 4
    for values in found:
        assert helm.render("example", values)


def test_the_dependency_is_the_examples():
    written = yaml.safe_load(next(text for text in yaml_blocks() if text.startswith("dependencies:")))
    about = yaml.safe_load((ROOT / "charts/example/Chart.yaml").read_text())
    assert written["dependencies"] == about["dependencies"]


def test_the_values_and_templates_that_it_names_are_there():
    library, values = (yaml.safe_load((ROOT / "charts" / chart / "values.yaml").read_text()) for chart in ["sf-token-proxy-lib", "sf-token-proxy"])
    values["sfTokenProxy"] |= library
    for name in ["existingSecret", "existingConfigMap", "credentialsVolume", "secretItems", "secretDefaultMode", "secret", "classic", "quitEndpoint", "caBundle", "extraEnv", "podMonitor"]:
        assert name in library and (f"`{name}" in PAGE or f"{name}:" in PAGE), name
    for path in re.findall(r"--set ([\w.]+)=", PAGE):
        here = values
        for part in path.split("."):
            assert part in here or path == "podMonitor.labels.release", path
            here = here.get(part, {})
    templates = "".join(path.read_text() for path in (ROOT / "charts/sf-token-proxy-lib/templates").glob("*.tpl"))
    named = set(re.findall(r'include "(sf-token-proxy\.\w+)"', PAGE))
    assert len(named) == 7
    for name in [*named, *re.findall(r"^\| `(sf-token-proxy\.\w+)`", (ROOT / "charts/sf-token-proxy-lib/README.md").read_text(), re.M)]:
        assert f'define "{name}"' in templates, name


def test_the_oldest_kubernetes_of_the_page_is_the_charts():
    about = yaml.safe_load((ROOT / "charts/example/Chart.yaml").read_text())
    oldest = re.fullmatch(r">=(\d+\.\d+)\.0-0", about["kubeVersion"])[1]
    assert f"Clusters from {oldest}, the oldest that is supported," in PAGE
    classic = PAGE.partition("\n## Without native sidecars\n")[2].partition("\n## ")[0]
    # It is for clusters that the charts take: with the feature switched off.
    assert f"Kubernetes before {oldest} is not supported, and\nthe charts refuse it." in classic and "`SidecarContainers`" in classic


def test_the_page_says_what_a_claim_needs():
    for text in [PAGE, (ROOT / "charts/sf-token-proxy-lib/README.md").read_text()]:
        assert any("persistentVolumeClaim" in part and "fsGroup: 65532" in part for part in re.split(r"\n\n|\n\| `", text))


def test_links_lead_somewhere():
    def anchor(heading):
        return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")

    for page in [ROOT / "docs/kubernetes.md", *(ROOT / "charts").glob("*/README.md")]:
        text = page.read_text()
        for target, fragment in re.findall(r"\]\(([^)#\s]*)(#[^)]*)?\)", text):
            if target.startswith("http"):
                continue
            to = (page.parent / target).resolve() if target else page
            assert to.exists(), f"{page.name}: {target}"
            if fragment:
                assert fragment[1:] in [anchor(heading) for heading in re.findall(r"^#+ (.*)$", to.read_text(), re.M)], f"{page.name}: {target}{fragment}"


def test_the_netpolicy_has_the_ports_of_the_container():
    policy = yaml.safe_load(next(text for text in yaml_blocks() if "kind: NetworkPolicy" in text))
    port = one(HELMS[0].render("example", {}), "Deployment")["spec"]["template"]["spec"]["initContainers"][0]["ports"][0]["containerPort"]
    own, metrics = policy["spec"]["ingress"]
    assert metrics["ports"] == [{"port": port, "protocol": "TCP"}] and metrics["from"]
    # Who copies it keeps what called the app before: its own port, from everybody unless peers are added.
    assert own["ports"][0]["port"] != port and "from" not in own
    assert "add its peers" in PAGE and "add the app's own peers" in PAGE


def test_what_is_installed_is_built_before_and_uninstalled_after():
    installed = re.findall(r"helm install (\S+) (\S+) --namespace (\S+)", PAGE)
    assert len(installed) == 2
    for release, chart, namespace in installed:
        assert f"helm uninstall {release} --namespace {namespace} " in PAGE
        block = next(text for language, text in BLOCKS if f"--namespace {namespace}" in text and "helm install" in text)
        assert block.startswith(f"helm dependency build {chart}\n"), namespace


def test_every_state_of_a_pod_that_does_not_start_has_its_row():
    table = PAGE.partition("### When it does not start")[2].partition("\n## ")[0]
    for state in ["Init:0/1", "Init:CrashLoopBackOff", "ContainerCreating", "Init:ErrImagePull", "Init:ImagePullBackOff", "Init:CreateContainerConfigError", "Init:OOMKilled"]:
        assert f"`{state}`" in table, state


def test_a_plain_scrape_job_drops_pods_that_are_over():
    """As a PodMonitor does; else each finished Job is a target that is down."""
    assert '__meta_kubernetes_pod_phase=~"Succeeded|Failed"' in PAGE


def test_the_generators_option_is_for_our_config_map_only():
    for text in [*yaml_blocks(), (ROOT / "charts/kustomize/example/kustomization.yaml").read_text()]:
        for document in yaml.safe_load_all(text):
            if isinstance(document, dict) and document.get("kind") == "Kustomization":
                assert "generatorOptions" not in document
                assert document["configMapGenerator"][0]["options"] == {"disableNameSuffixHash": True}


def test_the_memory_that_the_pages_speak_of_is_the_charts():
    limit = one(HELMS[0].render("example", {}), "Deployment")["spec"]["template"]["spec"]["initContainers"][0]["resources"]["limits"]["memory"]
    assert f"| `limits` | {limit} memory |" in PAGE
    assert f"limits memory to {limit}." in (ROOT / "docs/operations.md").read_text()
