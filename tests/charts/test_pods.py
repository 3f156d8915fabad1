"""What every rendered pod has to be like, whatever the values: the charts', the overlay's and helm test's."""

import http.server
import json
import posixpath
import re
import subprocess
import threading

import pytest
import yaml

from tools import HELMS, PROXY, ROOT, Refused, ci_values, containers, kustomized, named, one, pod_spec, pod_specs, rendered

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
    assert sidecar("quota")[0]["resources"]["requests"] == {"cpu": "20m", "memory": "48Mi", "ephemeral-storage": "1Mi"}
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
    # The key of the ConfigMap is the file that the configuration names: else the proxy would not start.
    config = yaml.safe_load(one(rendered("example", "egress-proxy-and-ca"), "ConfigMap")["data"]["config.yaml"])
    file = config["upstream"]["ca_file"]
    assert volumes["sf-token-proxy-ca"]["configMap"]["items"] == [{"key": "bundle.pem", "path": posixpath.basename(file)}]
    assert posixpath.dirname(file) == "/etc/sf-token-proxy-ca"
    assert {env["name"] for env in container["env"]} == {"HTTPS_PROXY", "NO_PROXY", "SFPROXY_LOG_LEVEL"}


def test_folders_that_are_written_to():
    container, volumes = sidecar("store")
    assert volumes["sf-token-proxy-store"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Mi"}
    assert named(container["volumeMounts"], "sf-token-proxy-store") == {"name": "sf-token-proxy-store", "mountPath": "/var/lib/sf-token-proxy"}
    container, volumes = sidecar("tls")
    assert named(container["volumeMounts"], "sf-token-proxy-tls")["mountPath"] == "/var/lib/sf-token-proxy-tls"
    assert "sf-token-proxy-store" not in sidecar("default")[1]
    container, volumes = sidecar("nested-folders")
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/etc/sf-token-proxy", "/var/run/secrets/sf-token-proxy", "/var/lib/sf-token-proxy"}
    assert volumes["sf-token-proxy-store"] == {"name": "sf-token-proxy-store", "persistentVolumeClaim": {"claimName": "tokens"}}
    assert "sf-token-proxy-tls" not in volumes


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_the_stores_volume_is_an_empty_dir_unless_another_source_is_given(helm):
    store = {"store": {"file": {"directory": "/var/lib/sf-token-proxy", "key": "file:/var/run/secrets/sf-token-proxy/k"}}}
    for source, wanted in [({}, {"emptyDir": {}}), ({"emptyDir": {"medium": "Memory"}}, None), ({"persistentVolumeClaim": {"claimName": "x"}}, None)]:
        docs = helm.render("example", {"sfTokenProxy": {"storeVolume": source, "config": store}})
        volume = named(pod_spec(one(docs, "Deployment"))["volumes"], "sf-token-proxy-store")
        del volume["name"]
        assert volume == (wanted or source)


def test_folders_within_each_other():
    """The outer one is mounted first, whatever the order of the settings."""
    config = {
        "store": {"file": {"directory": "/data/store", "key": "file:/var/run/secrets/sf-token-proxy/k"}},
        "listeners": [{"address": "localhost:8443", "tls": {"generate_in": "/data/./tls/"}}, {"address": "localhost:8080", "tls": None}],
    }
    for helm in HELMS:
        spec = pod_spec(one(helm.render("example", {"sfTokenProxy": {"config": config}}), "Deployment"))
        assert [mount["mountPath"] for mount in ours(spec)["volumeMounts"]][2:] == ["/data", "/data/store"]


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
    assert check["args"][:3] == ["healthcheck", "--url", "http://localhost:18080/services/data/v60.0/"]


def memory(quantity):
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity)).groups()
    return float(number) * {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "MiB": 2**20, "GiB": 2**30}[unit]


@pytest.mark.parametrize("spec", SIDECARS)
def test_bodies_kept_for_a_repeat_fit_into_the_limit(spec):
    """With the program's own default, read from its schema, where the pod's configuration says nothing else (which is in nested-folders)."""
    total = json.loads((ROOT / "config/schema.json").read_text())["properties"]["replay"]["default"]["total"]
    assert memory(ours(spec)["resources"]["limits"]["memory"]) >= memory(total) + 32 * 2**20


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_the_limit_and_what_is_kept_go_together(helm):
    def with_(limit, total, **more):
        return helm.render("example", {"sfTokenProxy": {"resources": {"limits": {"memory": limit}}, "config": {"replay": {"total": total}}, **more}})

    for limit, total in [("96Mi", "64MiB"), ("64Mi", "32MiB"), ("34M", "0B"), (100663296, "64MiB"), ("0.5Gi", "480MiB"), ("1Gi", "900MB"), ("", "64GiB"), ("2G", "1GB"), ("40Mi", "8192KiB")]:
        assert with_(limit, total)
    for limit, total in [("95Mi", "64MiB"), ("64Mi", "33MiB"), ("34M", "1MB"), ("100663295", "64MiB"), (100663295, "64MiB"), ("0.5Gi", "481MiB"), ("1Gi", "1GiB"), ("1G", "1GB"), ("39Mi", "8192KiB")]:
        with pytest.raises(Refused, match=r"sfTokenProxy.resources.limits.memory.*sfTokenProxy.config.replay.total"):
            with_(limit, total)
    # Of a file that is not here nothing is known.
    assert helm.render("example", {"sfTokenProxy": {"resources": {"limits": {"memory": "64Mi"}}, "config": None, "existingConfigMap": "c"}})


def test_a_limit_or_a_setting_of_the_security_context_can_be_left_out():
    for helm in HELMS:
        docs = helm.render("example", {"sfTokenProxy": {"resources": {"limits": {"memory": ""}, "requests": {"cpu": ""}}, "securityContext": {"runAsUser": ""}}})
        for container in (ours(pod_spec(one(docs, "Deployment"))), named(pod_spec(one(docs, "Pod"))["containers"], "healthcheck")):
            assert container["resources"] == {"requests": {"memory": "32Mi"}}
            assert "runAsUser" not in container["securityContext"]


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_settings_within_others_can_be_left_out_as_well(helm):
    def context(**values):
        docs = helm.render("example", {"sfTokenProxy": {"securityContext": values}})
        both = [ours(pod_spec(one(docs, "Deployment"))), named(pod_spec(one(docs, "Pod"))["containers"], "healthcheck")]
        assert both[0]["securityContext"] == both[1]["securityContext"]
        return both[0]["securityContext"]

    usual = context()
    for name, empty in [("seccompProfile", {"type": ""}), ("seccompProfile", ""), ("capabilities", {"drop": ""}), ("capabilities", ""), ("runAsUser", "")]:
        assert context(**{name: empty}) == {key: value for key, value in usual.items() if key != name}, (name, empty)
    assert context(capabilities={"drop": "", "add": ["NET_BIND_SERVICE"]})["capabilities"] == {"add": ["NET_BIND_SERVICE"]}
    assert context(seccompProfile={"type": "", "localhostProfile": "x"})["seccompProfile"] == {"localhostProfile": "x"}
    # False is a value.
    assert context(readOnlyRootFilesystem=False)["readOnlyRootFilesystem"] is False


def test_a_store_on_a_claim_is_in_a_pod_whose_group_may_write_to_it():
    seen = [pod for pod in SIDECARS for volume in pod.values[0]["volumes"] if "persistentVolumeClaim" in volume]
    assert seen
    for pod in seen:
        assert pod.values[0]["securityContext"]["fsGroup"] == ours(pod.values[0])["securityContext"]["runAsGroup"], pod.id


def test_the_address_follows_the_variable_that_moves_the_listener():
    for helm in HELMS:
        docs = helm.render("example", {"sfTokenProxy": {"extraEnv": [{"name": "SFPROXY_LISTEN", "value": "127.0.0.1:8081,[::1]:8081"}]}})
        assert named(named(pod_spec(one(docs, "Deployment"))["containers"], "app")["env"], "SALESFORCE_URL")["value"] == "http://localhost:8081"


def test_further_arguments_come_after_the_command():
    assert sidecar("default")[0]["args"] == ["run", "--config", "/etc/sf-token-proxy/config.yaml"]
    assert sidecar("extras")[0]["args"] == ["run", "--config", "/etc/sf-token-proxy/config.yaml", "--an-argument", "its value"]


def test_no_pod_gets_a_token_of_the_cluster():
    for name in ["default", "workloads"]:
        for pod, spec in pod_specs(rendered("example", name)):
            assert spec["automountServiceAccountToken"] is False, pod


def test_files_for_a_group_are_in_a_pod_of_that_group():
    """0440 without fsGroup is root's alone, and the proxy is not root."""
    seen = 0
    for pod in SIDECARS:
        for volume in pod.values[0]["volumes"]:
            if not volume.get("secret", {}).get("defaultMode", 0o444) & 0o004:
                seen += 1
                assert pod.values[0]["securityContext"]["fsGroup"] == ours(pod.values[0])["securityContext"]["runAsGroup"], pod.id
    assert seen == 3


def test_what_the_workloads_are_told():
    docs = rendered("example", "workloads")
    assert one(docs, "Deployment")["spec"]["replicas"] == 2 and one(rendered("example", "nested-folders"), "Deployment")["spec"]["replicas"] == 1
    assert one(docs, "CronJob")["spec"]["concurrencyPolicy"] == "Forbid"
    job = one(docs, "Job")
    assert job["spec"]["ttlSecondsAfterFinished"] == 3600
    # A Job cannot be changed: another revision is another Job, and what has no revisions replaces it.
    assert job["metadata"]["name"] == "r-example-1"
    assert job["metadata"]["annotations"]["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
    assert "annotations" not in one(rendered("example", "job-only"), "Job")["metadata"]
    assert one(docs, "Pod")["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    assert not [document for document in rendered("example", "default") if document["kind"] == "Job"], "not unless asked for: without revisions a change of it is refused"


def answering(status):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"SFPROXY_NO_TOKEN")

        def log_message(self, *_):
            pass

    asked = []
    server = http.server.HTTPServer(("localhost", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, asked


def test_helm_test_asks_for_a_call_and_fails_without_a_token():
    """By the program, with the arguments as they are rendered. That it is ready would not do: after the patience it is so without a token."""
    for name, listener in [("default", "8080"), ("ports", "18080"), ("tls", "8080")]:
        args = named(pod_spec(one(rendered("example", name), "Pod"))["containers"], "healthcheck")["args"]
        assert f"http://localhost:{listener}/services/data/v60.0/" in args
        for status, code in [(200, 0), (503, 1)]:
            server, asked = answering(status)
            done = subprocess.run([PROXY, *[arg.replace(f":{listener}", f":{server.server_port}") for arg in args]], capture_output=True, text=True, timeout=30)
            server.shutdown()
            server.server_close()
            assert done.returncode == code and asked == ["/services/data/v60.0/"]
            assert status == 200 or "SFPROXY_NO_TOKEN" in done.stderr
    # https is not spoken; a listener that wants a user would refuse.
    https = named(pod_spec(one(rendered("example", "https-only"), "Pod"))["containers"], "healthcheck")["args"]
    assert https == ["healthcheck", "--ready", "--url", "http://localhost:9090"]
    users = [{"address": "localhost:8080", "users": {"allow": ["*"], "required": True}}, {"address": ["127.0.0.1:8081", "[::1]:8081"]}]
    docs = HELMS[0].render("example", {"sfTokenProxy": {"config": {"listeners": users}}})
    assert "http://localhost:8081/services/data/v60.0/" in named(pod_spec(one(docs, "Pod"))["containers"], "healthcheck")["args"]


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
    docs = [document for document in rendered("example", "workloads") if document["kind"] in ("Deployment", "Job", "CronJob")]
    assert len(docs) == 3
    assert len({document["metadata"]["labels"]["app.kubernetes.io/component"] for document in docs}) == 3


def test_names_labels_and_annotations_of_the_values():
    docs = rendered("example", "names-and-image")
    deployment = one(docs, "Deployment", "r-crm")
    assert deployment["metadata"]["labels"]["team"] == "crm" == one(docs, "ConfigMap", "crm-salesforce-config")["metadata"]["labels"]["team"]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["note"], annotations["other-note"]) == ("from the app", "from the proxy")
    assert annotations["kubectl.kubernetes.io/default-container"] == "app"


def test_every_pod_has_the_annotations_and_no_default_container_that_is_not_there():
    for name in ["default", "names-and-image", "workloads"]:
        for document in rendered("example", name):
            if spec := pod_spec(document):
                template = document["spec"]["jobTemplate"]["spec"]["template"] if document["kind"] == "CronJob" else document["spec"].get("template", document)
                annotations = template["metadata"]["annotations"]
                assert annotations.get("kubectl.kubernetes.io/default-container", OURS) in [container["name"] for container in containers(spec)]
                assert name != "names-and-image" or (annotations["note"], annotations["other-note"]) == ("from the app", "from the proxy")


def test_long_names_fit():
    long = {"fullnameOverride": "a" * 63, "sfTokenProxy": {"fullnameOverride": "b" * 63, "podMonitor": {"enabled": True}}}
    for helm in HELMS:
        for document in helm.render("example", long, release="r" * 53):
            # A Job's pods and a CronJob's Jobs append to the name.
            assert len(document["metadata"]["name"]) <= (52 if document["kind"] in ("CronJob", "Job") else 63)
            for value in document["metadata"]["labels"].values():
                assert len(value) <= 63


STANDS = {"app.kubernetes.io/name": "mine", "app.kubernetes.io/instance": "mine", "app.kubernetes.io/managed-by": "mine", "helm.sh/chart": "mine", "team": "crm"}


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_common_labels_do_not_replace_the_standard_ones(helm):
    """A selector would find nothing, and helm not its own."""
    everything = {"prometheusRule": {"enabled": True, "labels": STANDS}, "podMonitor": {"enabled": True}, "commonLabels": STANDS}
    docs = helm.render("example", {"commonLabels": STANDS, "sfTokenProxy": {"commonLabels": STANDS, "podMonitor": {"enabled": True, "labels": STANDS}}})
    for document in [*docs, *helm.render("sf-token-proxy", everything)]:
        labels = document["metadata"]["labels"]
        assert [name for name, value in labels.items() if value == "mine"] == [], document["kind"]
        assert labels["team"] == "crm"


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_labels_are_no_longer_than_labels_may_be_and_names_end_as_names_do(helm):
    long = {"nameOverride": "a" * 63, "app": {"image": {"tag": "_1" + "." * 60 + "1" * 60}}, "sfTokenProxy": {"nameOverride": "x" * 46 + "..." + "y" * 10, "podMonitor": {"enabled": True}}}
    docs = helm.render("example", long) + helm.render("sf-token-proxy", {"nameOverride": "b" * 47 + "." + "c" * 15, "dashboard": {"enabled": True}})
    assert len(docs) > 4
    for document in docs:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", document["metadata"]["name"])
        assert not re.search(r"\.[-.]|-\.", document["metadata"]["name"]), document["metadata"]["name"]
        for value in document["metadata"]["labels"].values():
            assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value), value
