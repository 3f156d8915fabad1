"""What users of such sidecars complained of, and what the rendered pods do about it. Each name ends with one of the issues.

What only shows in a running pod (the first call of a Job, calls after the app's SIGTERM, a rotated key, exit code 0) is in tests/pods.
"""

from test_pods import NATIVE, OURS, SIDECARS, ours, sidecar
from tools import HELMS, kustomized, named, one, pod_spec, rendered


def test_a_job_ends_although_the_sidecar_lives_cloud_sql_proxy_128():
    for docs in [rendered("example", "workloads"), kustomized()]:
        for kind in ["Job", "CronJob"]:
            spec = pod_spec(one(docs, kind))
            assert named(spec["initContainers"], OURS)["restartPolicy"] == "Always"
            assert OURS not in [container["name"] for container in spec["containers"]]


def test_a_classic_job_can_end_it_cloud_sql_proxy_1941():
    config = one(rendered("example", "classic"), "ConfigMap")["data"]["config.yaml"]
    assert "quit_endpoint: true" in config
    alone = one(HELMS[0].render("example", {"sfTokenProxy": {"classic": {"enabled": True}}}), "ConfigMap")["data"]["config.yaml"]
    assert "quit_endpoint" not in alone, "not by the classic container alone"
    assert "quit_endpoint" not in one(rendered("example", "default"), "ConfigMap")["data"]["config.yaml"], "off unless asked for"


def test_the_app_starts_when_the_proxy_is_ready_cloud_sql_proxy_2063():
    for pod in NATIVE:
        assert ours(pod.values[0])["startupProbe"]["httpGet"]["path"] == "/startupz"
    assert sidecar("classic")[0]["lifecycle"]["postStart"]["exec"]["command"][1] == "wait"


def test_new_connections_while_the_app_winds_down_cloud_sql_proxy_1640():
    """A native sidecar gets its SIGTERM after the app; a classic one has a delay. No hook begins earlier."""
    for pod in SIDECARS:
        assert "preStop" not in str(ours(pod.values[0]))
    assert "delay: 10s" in one(rendered("example", "classic"), "ConfigMap")["data"]["config.yaml"]


def test_probes_come_to_the_pods_address_cloud_sql_proxy_137():
    for pod in SIDECARS:
        for probe in ["startupProbe", "livenessProbe"]:
            assert "host" not in ours(pod.values[0])[probe]["httpGet"]
    assert "address: '*:9090'" in one(rendered("example", "default"), "ConfigMap")["data"]["config.yaml"]


def test_an_outage_does_not_flap_the_apps_readiness_cloud_sql_proxy_1975():
    assert not [pod.id for pod in SIDECARS if "readinessProbe" in ours(pod.values[0]) and ":probes:" not in pod.id]


def test_a_hung_proxy_is_restarted_simple_container_347():
    for pod in SIDECARS:
        assert ours(pod.values[0])["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_health_is_on_a_port_of_its_own_aws_sigv4_proxy_193():
    spec = pod_spec(one(rendered("example", "default"), "Deployment"))
    app = named(named(spec["containers"], "app")["env"], "SALESFORCE_URL")["value"]
    assert not app.endswith(f":{ours(spec)['ports'][0]['containerPort']}")


def test_a_rotated_secret_is_seen_dam_217():
    """By a folder, never by subPath or a variable, which stay as they were."""
    for pod in SIDECARS:
        assert "subPath" not in str(ours(pod.values[0])["volumeMounts"])
        assert not [env for env in ours(pod.values[0]).get("env", []) if "secretKeyRef" in str(env)]


def test_credentials_do_not_enter_the_workload_openshell_1066():
    for pod in SIDECARS:
        for container in pod.values[0]["containers"]:
            if container["name"] != OURS:
                assert "sf-token-proxy-credentials" not in str(container)


def test_one_value_is_enough_oda_canvas_362():
    """Whether a chart's pod has the proxy, and where its secret is: no template has to be rewritten for it."""
    for helm in HELMS:
        docs = helm.render("example", {"sfTokenProxy": {"existingSecret": "another"}})
        assert pod_spec(one(docs, "Deployment"))["volumes"][1]["secret"]["secretName"] == "another"
