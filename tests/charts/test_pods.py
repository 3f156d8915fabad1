"""What every rendered pod has to be like, whatever the values: the charts', the overlay's and helm test's."""

import re

import pytest

from tools import HELMS, ci_values, containers, kustomized, named, one, pod_spec, pod_specs, rendered

# Pods, by where they are from.
PODS = [pytest.param(spec, id=f"{chart}:{name}:{pod}") for chart, name in ci_values() for pod, spec in pod_specs(rendered(chart, name))]
PODS += [pytest.param(spec, id=f"kustomize:{pod}") for pod, spec in pod_specs(kustomized())]
OURS = "sf-token-proxy"


def ours(spec):
    return next((container for container in containers(spec) if container["name"] == OURS), None)


def native(spec):
    return ours(spec) in spec.get("initContainers", [])


SIDECARS = [pod for pod in PODS if ours(pod.values[0])]
NATIVE = [pod for pod in SIDECARS if native(pod.values[0])]
CLASSIC = [pod for pod in SIDECARS if not native(pod.values[0])]
# Volumes that the level "restricted" allows.
ALLOWED = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def test_there_are_pods_of_every_form():
    assert len(NATIVE) > 50 and len(CLASSIC) == 3 and len(PODS) == len(SIDECARS) + 1


@pytest.mark.parametrize("spec", PODS)
def test_pod_security_restricted(spec):
    """Of the containers themselves: nothing is left to the pod's security context, which belongs to the app."""
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    for volume in spec.get("volumes", []):
        assert set(volume) - {"name"} <= ALLOWED, volume
    for container in containers(spec):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context.get("runAsUser", 1) != 0
        assert not context.get("privileged")
        assert all("hostPort" not in port for port in container.get("ports", []))


@pytest.mark.parametrize("spec", SIDECARS)
def test_our_container(spec):
    container = ours(spec)
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    # OpenShift gives a user; else it is a number that the kubelet can check.
    assert (context.get("runAsUser"), context.get("runAsGroup")) in [(65532, 65532), (None, None)]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert container["args"][:3] == ["run", "--config", "/etc/sf-token-proxy/config.yaml"]
    assert "command" not in container
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert re.search(r":[^:]*[0-9][^:]*$", container["image"]), "a tag or a digest"
    # The proxy's own port is on loopback: only the metrics' is told, with the name that the PodMonitor asks for.
    assert [port["name"] for port in container["ports"]] == ["metrics"]
    port = container["ports"][0]["containerPort"]
    assert container["startupProbe"]["httpGet"] == {"path": "/startupz", "port": port}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port}
    # By number: not every engine sees the names of an init container's ports.
    assert isinstance(port, int)
    assert "preStop" not in container.get("lifecycle", {})


@pytest.mark.parametrize("spec", NATIVE)
def test_a_native_sidecar(spec):
    container = ours(spec)
    assert container["restartPolicy"] == "Always"
    assert "lifecycle" not in container
    assert spec["initContainers"][0]["name"] == OURS, "before the app's own init containers, which may call as well"


@pytest.mark.parametrize("spec", CLASSIC)
def test_a_classic_sidecar(spec):
    container = ours(spec)
    assert "restartPolicy" not in container
    assert spec["containers"][0]["name"] == OURS, "the next container waits for the hook of this one"
    assert container["lifecycle"]["postStart"]["exec"]["command"] == ["/sf-token-proxy", "wait", "--url", "http://localhost:9090", "--timeout", "90s"]


@pytest.mark.parametrize("spec", SIDECARS)
def test_mounts(spec):
    """Every mount has its volume, none is by subPath (its file would never change), ours are read-only but for what the proxy writes."""
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert len(volumes) == len(set(volumes))
    for container in containers(spec):
        mounts = container.get("volumeMounts", [])
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
        for mount in mounts:
            assert mount["name"] in volumes
            assert "subPath" not in mount and "subPathExpr" not in mount
            assert mount.get("readOnly") or mount["name"] in ("sf-token-proxy-store", "sf-token-proxy-tls")
            if container["name"] == "app":
                assert mount["name"] not in ("sf-token-proxy-config", "sf-token-proxy-credentials", "sf-token-proxy-store")
    mounted = {mount["name"] for container in containers(spec) for mount in container.get("volumeMounts", [])}
    assert mounted == set(volumes), "a volume that nobody mounts"


@pytest.mark.parametrize("spec", SIDECARS)
def test_the_app_knows_no_credential(spec):
    for container in containers(spec):
        if container["name"] == "app":
            assert "secretKeyRef" not in str(container) and "SFPROXY_" not in str(container)


# Single features


def sidecar(name, kind="Deployment"):
    spec = pod_spec(one(rendered("example", name), kind))
    return ours(spec), {volume["name"]: volume for volume in spec["volumes"]}


def test_no_readiness_probe_unless_asked_for():
    assert "readinessProbe" not in sidecar("default")[0]
    assert sidecar("probes")[0]["readinessProbe"] == {"httpGet": {"path": "/readyz", "port": 9090}, "periodSeconds": 5, "timeoutSeconds": 1, "failureThreshold": 3}


def test_probes():
    container, _ = sidecar("default")
    assert (container["startupProbe"]["periodSeconds"], container["startupProbe"]["failureThreshold"]) == (1, 60)
    assert (container["livenessProbe"]["periodSeconds"], container["livenessProbe"]["failureThreshold"]) == (10, 3)
    container, _ = sidecar("probes")
    assert (container["startupProbe"]["periodSeconds"], container["startupProbe"]["failureThreshold"]) == (1, 120)


def test_no_limit_of_cpu_unless_asked_for():
    assert "cpu" not in sidecar("default")[0]["resources"]["limits"]
    assert sidecar("quota")[0]["resources"]["limits"] == {"cpu": "500m", "memory": "96Mi", "ephemeral-storage": "16Mi"}


def test_modes_of_the_secret():
    _, volumes = sidecar("default")
    assert volumes["sf-token-proxy-credentials"]["secret"] == {"secretName": "salesforce", "defaultMode": 0o444}
    _, volumes = sidecar("jwt-bearer")
    assert volumes["sf-token-proxy-credentials"]["secret"] == {"secretName": "salesforce-jwt", "defaultMode": 0o440, "items": [{"key": "tls.key", "path": "key.pem"}]}


def test_a_secret_is_made_on_explicit_wish_only():
    made = {name for chart, name in ci_values() if chart == "example" and any(document["kind"] == "Secret" for document in rendered(chart, name))}
    assert made == {"chart-made-secret"}
    secret = one(rendered("example", "chart-made-secret"), "Secret")
    _, volumes = sidecar("chart-made-secret")
    assert volumes["sf-token-proxy-credentials"]["secret"]["secretName"] == secret["metadata"]["name"]


def test_csi():
    _, volumes = sidecar("csi")
    assert volumes["sf-token-proxy-credentials"]["csi"]["driver"] == "secrets-store.csi.k8s.io"


def test_an_existing_config_map():
    docs = rendered("example", "existing-configmap")
    assert not [document for document in docs if document["kind"] == "ConfigMap"]
    _, volumes = sidecar("existing-configmap")
    assert volumes["sf-token-proxy-config"]["configMap"] == {"name": "salesforce-proxy", "items": [{"key": "proxy.yaml", "path": "config.yaml"}]}


def test_the_ca_bundle_and_the_egress_proxy():
    container, volumes = sidecar("egress-proxy-and-ca")
    assert volumes["sf-token-proxy-ca"]["configMap"]["name"] == "corporate-ca"
    assert named(container["volumeMounts"], "sf-token-proxy-ca")["mountPath"] == "/etc/sf-token-proxy-ca"
    assert {env["name"] for env in container["env"]} == {"HTTPS_PROXY", "NO_PROXY", "SFPROXY_LOG_LEVEL"}


def test_folders_that_are_written_to():
    container, volumes = sidecar("store")
    assert volumes["sf-token-proxy-store"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Mi"}
    assert named(container["volumeMounts"], "sf-token-proxy-store") == {"name": "sf-token-proxy-store", "mountPath": "/var/lib/sf-token-proxy"}
    container, volumes = sidecar("tls")
    assert named(container["volumeMounts"], "sf-token-proxy-tls")["mountPath"] == "/var/lib/sf-token-proxy-tls"
    assert "sf-token-proxy-store" not in sidecar("default")[1]


def test_the_image():
    container, _ = sidecar("names-and-image")
    assert container["image"] == "registry.acme.example:5000/mirror/sf-token-proxy@sha256:" + "0123456789abcdef" * 4
    assert container["imagePullPolicy"] == "Always"
    spec = pod_spec(one(rendered("example", "names-and-image"), "Deployment"))
    assert spec["imagePullSecrets"] == [{"name": "app-pull"}, {"name": "proxy-pull"}]
    assert spec["nodeSelector"] and spec["tolerations"] and spec["affinity"]


def test_the_apps_address_follows_the_listener():
    for name, url in [("default", "http://localhost:8080"), ("ports", "http://localhost:18080"), ("tls", "http://localhost:8080")]:
        spec = pod_spec(one(rendered("example", name), "Deployment"))
        assert named(named(spec["containers"], "app")["env"], "SALESFORCE_URL")["value"] == url


def test_the_admin_port_is_one_number_everywhere():
    container, _ = sidecar("ports")
    assert container["ports"][0]["containerPort"] == 19090 == container["startupProbe"]["httpGet"]["port"] == container["livenessProbe"]["httpGet"]["port"]
    check = named(pod_spec(one(rendered("example", "ports"), "Pod"))["containers"], "healthcheck")
    assert check["args"] == ["healthcheck", "--ready", "--url", "http://localhost:19090"]


def test_helm_test_has_a_proxy_of_its_own():
    pod = one(rendered("example", "default"), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert native(pod["spec"]) and pod["spec"]["restartPolicy"] == "Never"
    assert named(pod["spec"]["containers"], "healthcheck")["image"] == ours(pod["spec"])["image"]


# Names and labels

STANDARD = ["app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/component", "app.kubernetes.io/managed-by", "helm.sh/chart"]


@pytest.mark.parametrize("chart, name", ci_values())
def test_standard_labels(chart, name):
    for document in rendered(chart, name):
        if document["metadata"]["name"] not in ("extra", "r-templated", "r-extra"):
            assert document["metadata"]["labels"].keys() >= set(STANDARD), document["metadata"]["name"]


def test_selectors_have_no_version():
    for chart, name in ci_values():
        for document in rendered(chart, name):
            if document["kind"] == "Deployment":
                selector = document["spec"]["selector"]["matchLabels"]
                assert set(selector) == set(STANDARD[:2]) | {"app.kubernetes.io/component"}
                assert selector.items() <= document["spec"]["template"]["metadata"]["labels"].items()


def test_selectors_of_the_workloads_do_not_overlap():
    docs = [document for document in rendered("example", "default") if document["kind"] in ("Deployment", "Job", "CronJob")]
    assert len({document["metadata"]["labels"]["app.kubernetes.io/component"] for document in docs}) == 3


def test_names_labels_and_annotations_of_the_values():
    docs = rendered("example", "names-and-image")
    deployment = one(docs, "Deployment", "r-crm")
    assert deployment["metadata"]["labels"]["team"] == "crm" == one(docs, "ConfigMap", "crm-salesforce-config")["metadata"]["labels"]["team"]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["note"], annotations["other-note"]) == ("from the app", "from the proxy")
    assert annotations["kubectl.kubernetes.io/default-container"] == "app"


def test_long_names_fit():
    long = {"fullnameOverride": "a" * 63, "sfTokenProxy": {"fullnameOverride": "b" * 63, "podMonitor": {"enabled": True}}}
    for helm in HELMS:
        for document in helm.render("example", long, release="r" * 53):
            # A Job's pods and a CronJob's Jobs append to the name.
            assert len(document["metadata"]["name"]) <= (52 if document["kind"] in ("CronJob", "Job") else 63)
            for value in document["metadata"]["labels"].values():
                assert len(value) <= 63
