"""Every configuration that is rendered, or stands in the overlay and in docs/kubernetes.md, is taken by the program itself."""

import pip._vendor.certifi
import re
import subprocess

import pytest
import yaml

from tools import HELMS, PROXY, ROOT, ci_values, kustomized, one, pod_specs, rendered

SECRETS = "/var/run/secrets/sf-token-proxy"
CONFIGS = {f"example:{name}": one(rendered("example", name), "ConfigMap", "crm-salesforce-config" if name == "names-and-image" else "r-example-sf-token-proxy-config")["data"]["config.yaml"] for chart, name in ci_values() if chart == "example" and name != "existing-configmap"}
CONFIGS["kustomize"] = one(kustomized(), "ConfigMap")["data"]["config.yaml"]
for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.S)):
    for document in yaml.safe_load_all(block):
        if isinstance(document, dict) and document.get("kind") == "ConfigMap" and "config.yaml" in document.get("data", {}):
            CONFIGS[f"docs:{number}"] = document["data"]["config.yaml"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Stands for the container's volumes: each file that a configuration names, with a content of its kind."""
    here = tmp_path_factory.mktemp("volumes")
    (here / "client-secret").write_text("not-a-real-one\n")
    (here / "store-key").write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
    pair = "console.log(require('crypto').generateKeyPairSync('rsa', {modulusLength: 2048}).privateKey.export({type: 'pkcs8', format: 'pem'}))"
    (here / "key.pem").write_text(subprocess.run(["node", "-e", pair], capture_output=True, text=True, check=True).stdout)
    (here / "bundle.pem").write_bytes(open(pip._vendor.certifi.where(), "rb").read())
    return here


def check(config, folder, **environment):
    """check --config in the environment of the container, with its volumes under FOLDER."""
    for inside in [SECRETS, "/etc/sf-token-proxy-ca", "/var/lib"]:
        config = config.replace(inside + "/", f"{folder}/")
    path = folder / "config.yaml"
    path.write_text(config)
    return subprocess.run([PROXY, "check", "--config", path], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_program_takes_it(name, folder):
    done = check(CONFIGS[name], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok")


def test_a_wrong_one_is_told(folder):
    done = check(CONFIGS["example:default"].replace("login_url", "log_in_url"), folder)
    assert done.returncode == 78 and "log_in_url" in done.stderr


def settings(name):
    return yaml.safe_load(CONFIGS[f"example:{name}"])


def test_what_the_chart_adds():
    assert settings("default")["admin"] == {"address": "*:9090"}
    assert settings("default")["threads"] == "auto"
    assert "shutdown" not in settings("default")
    assert settings("ports")["admin"]["address"] == "*:19090"
    assert settings("probes")["admin"] == {"address": "*:9090", "startup_patience": "60s"}
    assert settings("egress-proxy-and-ca")["upstream"]["ca_file"] == "/etc/sf-token-proxy-ca/bundle.pem"
    assert settings("classic")["admin"]["quit_endpoint"] is True
    assert settings("classic")["shutdown"] == {"delay": "10s"}


def test_what_it_leaves_alone():
    values = {"sfTokenProxy": {"classic": {"enabled": True}, "config": {"threads": 2, "admin": {"address": ["0.0.0.0:9090", "[::]:9090"]}, "shutdown": {"delay": "3s", "drain": "1m"}}}}
    for helm in HELMS:
        config = yaml.safe_load(one(helm.render("example", values), "ConfigMap")["data"]["config.yaml"])
        assert config["threads"] == 2
        assert config["admin"]["address"] == ["0.0.0.0:9090", "[::]:9090"]
        assert config["shutdown"] == {"delay": "3s", "drain": "1m"}


def test_no_config_carries_a_secret():
    for name, config in CONFIGS.items():
        for line in config.splitlines():
            if re.match(r"\s*(client_secret|private_key|key|password):", line):
                assert ": file:" in line, f"{name}: {line}"


def test_the_grace_period_is_long_enough():
    """shutdown.delay and drain, and a login under way, fit into it."""
    for name in CONFIGS:
        if name.startswith("example:"):
            shutdown = settings(name.removeprefix("example:")).get("shutdown", {})
            needed = int(shutdown.get("delay", "0s").rstrip("s")) + int(shutdown.get("drain", "20s").rstrip("s"))
            for pod, spec in pod_specs(rendered("example", name.removeprefix("example:"))):
                assert spec.get("terminationGracePeriodSeconds", 30) >= needed + 5, (name, pod)


# Services that put variables into every pod of their namespace


def service_links(service, port):
    """What the kubelet makes of a Service."""
    name = service.upper().replace("-", "_")
    address = f"tcp://10.0.0.1:{port}"
    return {
        **{f"{name}_SERVICE_HOST": "10.0.0.1", f"{name}_SERVICE_PORT": str(port), f"{name}_SERVICE_PORT_PROXY": str(port), f"{name}_PORT": address},
        **{f"{name}_PORT_{port}_TCP{end}": value for end, value in {"": address, "_PROTO": "tcp", "_PORT": str(port), "_ADDR": "10.0.0.1"}.items()},
    }


@pytest.mark.parametrize("service", ["sf-token-proxy", "r-sf-token-proxy", "salesforce", "example"])
def test_service_links_do_not_collide(service, folder):
    links = service_links(service, 8080)
    done = check(CONFIGS["example:default"], folder, **links)
    assert done.returncode == 0, done.stderr
    for name in ci_values():
        for _, spec in pod_specs(rendered(*name)):
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                assert not {env["name"] for env in container.get("env", [])} & set(links)


def test_no_setting_is_named_like_a_link():
    """A Service's name has no underscore at its beginning: what it makes begins with its own name."""
    names = set(re.findall(r"SFPROXY_[A-Z0-9_]+", (ROOT / "README.md").read_text()))
    assert len(names) > 40
    for service in ["sf-token-proxy", "sf-token-proxy-metrics", "sf-proxy", "token-proxy"]:
        assert not names & set(service_links(service, 8080))
