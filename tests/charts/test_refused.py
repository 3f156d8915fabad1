"""Wrong values: each is refused by both Helms before anything is made, with a message that names the value."""

import copy
import json
import re

import pytest
import yaml

from tools import ALL_CHARTS, HELMS, ROOT, Refused

CONFIG = {"orgs": {"main": {"login_url": "https://acme.my.salesforce.com", "grant": {"client_credentials": {"client_id": "id", "client_secret": "file:/var/run/secrets/sf-token-proxy/client-secret"}}}}}
SECRET = "cannery-row-canary"


def proxy(**values):
    return {"sfTokenProxy": values}


def config(**settings):
    return proxy(config={**copy.deepcopy(CONFIG), **settings})


def store(directory):
    return config(store={"file": {"directory": directory, "key": "file:/var/run/secrets/sf-token-proxy/store-key"}})


def grant(**settings):
    return proxy(config={"orgs": {"main": {"grant": {"client_credentials": None, **settings}}}})


# Chart, values, what the message names: parts that stand in it in this order.
WRONG = {
    # Of the schemas
    "an unknown value": ("example", {"replicas": 2}, ["replicas"]),
    "an unknown value of the library": ("example", proxy(existingSecrets="x"), ["sfTokenProxy", "existingSecrets"]),
    "values under the library's own name": ("example", {"sf-token-proxy-lib": {"adminPort": 9191}}, ["sf-token-proxy-lib", "extraVolumes"]),
    "an unknown nested value": ("example", proxy(image={"name": "x"}), ["sfTokenProxy", "image", "name"]),
    "latest": ("example", proxy(image={"tag": "latest"}), ["sfTokenProxy", "image", "tag"]),
    "latest of the app": ("example", {"app": {"image": {"tag": "latest"}}}, ["app", "image", "tag"]),
    "a digest without its kind": ("example", proxy(image={"digest": "0123"}), ["sfTokenProxy", "image", "digest"]),
    "a pull policy in small letters": ("example", proxy(image={"pullPolicy": "always"}), ["sfTokenProxy", "image", "pullPolicy"]),
    "a port as text": ("example", proxy(adminPort="9090"), ["sfTokenProxy", "adminPort"]),
    "a port that is none": ("example", proxy(adminPort=70000), ["sfTokenProxy", "adminPort"]),
    "a name in capital letters": ("example", proxy(existingSecret="My_Secret"), ["sfTokenProxy", "existingSecret"]),
    "an item without a path": ("example", proxy(secretItems=[{"key": "a"}]), ["sfTokenProxy", "secretItems", "path"]),
    "a mode that is none": ("example", proxy(secretDefaultMode=4440), ["sfTokenProxy", "secretDefaultMode"]),
    "a variable without a name": ("example", proxy(extraEnv=[{"value": "x"}]), ["sfTokenProxy", "extraEnv", "name"]),
    "variables as a map": ("example", proxy(extraEnv={"A": "b"}), ["sfTokenProxy", "extraEnv"]),
    "requests under another name": ("example", proxy(resources={"request": {}}), ["sfTokenProxy", "resources", "request"]),
    "root": ("example", proxy(securityContext={"runAsUser": 0}), ["sfTokenProxy", "securityContext", "runAsUser"]),
    "a duration without a unit": ("example", proxy(classic={"waitTimeout": "60"}), ["sfTokenProxy", "classic", "waitTimeout"]),
    "a probe's period of nothing": ("example", proxy(startupProbe={"periodSeconds": 0}), ["sfTokenProxy", "startupProbe", "periodSeconds"]),
    "two sources in one volume": ("example", proxy(credentialsVolume={"csi": {}, "secret": {}}), ["sfTokenProxy", "credentialsVolume"]),
    "a label's value that is a number": ("example", proxy(commonLabels={"team": 7}), ["sfTokenProxy", "commonLabels", "team"]),
    "replicas below none": ("example", {"deployment": {"replicas": -1}}, ["deployment", "replicas"]),
    "an unknown part of the cluster's chart": ("sf-token-proxy", {"prometheusRules": {"enabled": True}}, ["prometheusRules"]),
    "enabled as text": ("sf-token-proxy", {"dashboard": {"enabled": "yes"}}, ["dashboard", "enabled"]),
    "a version that has no policies": ("sf-token-proxy", {"admissionPolicy": {"apiVersion": "admissionregistration.k8s.io/v2"}}, ["admissionPolicy", "apiVersion"]),
    "a failure policy": ("sf-token-proxy", {"admissionPolicy": {"failurePolicy": "Retry"}}, ["admissionPolicy", "failurePolicy"]),
    "a repository with a tag": ("example", proxy(image={"repository": "x/y:1.0"}), ["sfTokenProxy", "image", "repository"]),
    "a repository with a digest": ("example", proxy(image={"repository": "x/y@sha256:" + "0" * 64}), ["sfTokenProxy", "image", "repository"]),
    "a tag of two words": ("example", proxy(image={"tag": "a b"}), ["sfTokenProxy", "image", "tag"]),
    "the app's repository with a tag": ("example", {"app": {"image": {"repository": "my-app:1.0"}}}, ["app", "image", "repository"]),
    "a label's value of two words": ("example", proxy(commonLabels={"team": "b c"}), ["sfTokenProxy", "commonLabels", "team"]),
    "a label's name of two words": ("sf-token-proxy", {"commonLabels": {"a b": "c"}}, ["commonLabels"]),
    "a label by which nobody could pick": ("sf-token-proxy", {"podMonitor": {"labels": {"release": "a b"}}}, ["podMonitor", "labels", "release"]),
    "a pod's label without a name": ("sf-token-proxy", {"admissionPolicy": {"podLabel": {"key": "a b"}}}, ["admissionPolicy", "podLabel", "key"]),
    "a name that is no label": ("sf-token-proxy", {"nameOverride": "a" * 64}, ["nameOverride"]),
    "the app's name that is no label": ("example", {"nameOverride": "a" * 64}, ["nameOverride"]),
    "a file out of the volume": ("example", proxy(secretItems=[{"key": "a", "path": "../x"}]), ["sfTokenProxy", "secretItems", "path"]),
    "a file out of the volume by a detour": ("example", proxy(secretItems=[{"key": "a", "path": "b/../../x"}]), ["sfTokenProxy", "secretItems", "path"]),
    "a source that is none": ("example", proxy(existingSecret="", credentialsVolume={"cssi": {}}), ["sfTokenProxy", "credentialsVolume"]),
    "credentials of the node": ("example", proxy(existingSecret="", credentialsVolume={"hostPath": {"path": "/"}}), ["sfTokenProxy", "credentialsVolume"]),
    "a store of the node": ("example", proxy(storeVolume={"hostPath": {"path": "/"}}), ["sfTokenProxy", "storeVolume"]),
    "a capability without a name": ("example", proxy(securityContext={"capabilities": {"drop": [""]}}), ["sfTokenProxy", "securityContext", "capabilities"]),
    "an unknown part of the capabilities": ("example", proxy(securityContext={"capabilities": {"drops": ["ALL"]}}), ["sfTokenProxy", "securityContext", "capabilities"]),
    "a profile as text": ("example", proxy(securityContext={"seccompProfile": "RuntimeDefault"}), ["sfTokenProxy", "securityContext", "seccompProfile"]),
    "a namespace under another name": ("sf-token-proxy", {"podMonitor": {"namespaceSelector": {"names": ["a"]}}}, ["podMonitor", "namespaceSelector", "names"]),
    "a namespace that is no list": ("sf-token-proxy", {"podMonitor": {"namespaceSelector": {"matchNames": "a"}}}, ["podMonitor", "namespaceSelector", "matchNames"]),
    "an alert that there is not": ("sf-token-proxy", {"prometheusRule": {"enabled": True, "disabled": ["SfTokenProxyAbsent", "SfTokenProxyAbsend"]}}, ["prometheusRule.disabled[1]", "SfTokenProxyAbsend", "SfTokenProxyAbsent"]),
    "an alert without a name": ("sf-token-proxy", {"prometheusRule": {"enabled": True, "disabled": [""]}}, ["prometheusRule.disabled[0]"]),
    "an unknown setting of the readiness probe": ("example", proxy(readinessProbe={"path": "/"}), ["sfTokenProxy", "readinessProbe", "path"]),
    # Of the templates: what contradicts itself
    "less memory than is kept": ("example", proxy(resources={"limits": {"memory": "64Mi"}}), ["sfTokenProxy.resources.limits.memory", "64Mi", "sfTokenProxy.config.replay.total", "64MiB"]),
    "a way to end that would be lost": ("example", proxy(config=None, existingConfigMap="c", quitEndpoint=True), ["sfTokenProxy.quitEndpoint", "sfTokenProxy.existingConfigMap", "admin.quit_endpoint"]),
    "a store beside the configuration": ("example", store("/etc/sf-token-proxy/"), ["sfTokenProxy.config.store.file.directory", "/etc/sf-token-proxy"]),
    "a store among the secrets": ("example", store("/run/secrets/sf-token-proxy/store"), ["sfTokenProxy.config.store.file.directory", "/var/run/secrets/sf-token-proxy"]),
    "a store in the bundle": ("example", store("/var/../etc/sf-token-proxy-ca"), ["sfTokenProxy.config.store.file.directory", "/etc/sf-token-proxy-ca"]),
    "a relative store": ("example", store("store"), ["sfTokenProxy.config.store.file.directory", "store", "absolute"]),
    "a store that is the system": ("example", store("/var/"), ["sfTokenProxy.config.store.file.directory", "/var"]),
    "a relative certificate": ("example", config(listeners=[{"address": "localhost:8443", "tls": {"generate_in": "tls/main"}}]), ["sfTokenProxy.config.listeners[0].tls.generate_in", "tls/main"]),
    "a certificate beside the configuration": ("example", config(listeners=[{}, {"address": "localhost:8443", "tls": {"generate_in": "/etc/sf-token-proxy/tls"}}]), ["sfTokenProxy.config.listeners[1].tls.generate_in", "/etc/sf-token-proxy"]),
    "a mount of one's own on the store": ("example", {"sfTokenProxy": {**store("/data")["sfTokenProxy"], "extraVolumeMounts": [{"name": "x", "mountPath": "/data/"}]}}, ["sfTokenProxy.extraVolumeMounts", "/data", "store.file.directory"]),
    "a port as the probes' address": ("example", config(admin={"address": 9090}), ["sfTokenProxy.config.admin.address", "9090"]),
    "ports as the probes' addresses": ("example", config(admin={"address": ["0.0.0.0:9090", 9090]}), ["sfTokenProxy.config.admin.address", "9090"]),
    "a port as an address": ("example", config(listeners=[{"address": "localhost:8081"}, {"address": 8080}]), ["sfTokenProxy.config.listeners[1].address", "8080"]),
    "a listener as text": ("example", config(listeners=["localhost:8080"]), ["sfTokenProxy.config.listeners[0]"]),
    "listeners as a map": ("example", config(listeners={"main": {}}), ["sfTokenProxy.config.listeners"]),
    "a certificate as text": ("example", config(listeners=[{"tls": "yes"}]), ["sfTokenProxy.config.listeners[0].tls"]),
    "users as a list": ("example", config(listeners=[{"users": ["*"]}]), ["sfTokenProxy.config.listeners[0].users"]),
    "a folder that is a number": ("example", config(listeners=[{"tls": {"generate_in": 1}}]), ["sfTokenProxy.config.listeners[0].tls.generate_in"]),
    "admin as text": ("example", config(admin="*:9090"), ["sfTokenProxy.config.admin"]),
    "upstream as text": ("example", proxy(caBundle={"configMap": "ca"}, config={"upstream": "x"}), ["sfTokenProxy.config.upstream"]),
    "shutdown as text": ("example", proxy(classic={"enabled": True}, config={"shutdown": "5s"}), ["sfTokenProxy.config.shutdown"]),
    "a store as text": ("example", config(store="/x"), ["sfTokenProxy.config.store"]),
    "a store's file as text": ("example", config(store={"file": "/x"}), ["sfTokenProxy.config.store.file"]),
    "bytes as a number": ("example", config(replay={"total": 67108864}), ["sfTokenProxy.config.replay.total"]),
    "no configuration": ("example", proxy(config=None), ["sfTokenProxy.config"]),
    "two configurations": ("example", proxy(existingConfigMap="x"), ["sfTokenProxy.config", "sfTokenProxy.existingConfigMap"]),
    "two credentials": ("example", proxy(secret={"create": True, "stringData": {"a": "b"}}), ["sfTokenProxy.existingSecret", "sfTokenProxy.secret.create"]),
    "an empty Secret": ("example", proxy(existingSecret="", secret={"create": True}), ["sfTokenProxy.secret.stringData"]),
    "no credential": ("example", proxy(existingSecret=""), ["sfTokenProxy.existingSecret"]),
    "probes on loopback": ("example", config(admin={"address": "localhost:9090"}), ["sfTokenProxy.config.admin.address", "localhost:9090"]),
    "probes on another port": ("example", config(admin={"address": ["0.0.0.0:9090", "[::]:9191"]}), ["sfTokenProxy.config.admin.address", "[::]:9191"]),
    "the probes on the port of the listener that is there when none is written": ("example", proxy(adminPort=8080), ["sfTokenProxy.config.listeners", "localhost:8080", "sfTokenProxy.adminPort", "none is written"]),
    "the probes on the port of a listener without an address": ("example", {"sfTokenProxy": {**config(listeners=[{"org": "main"}])["sfTokenProxy"], "adminPort": 8080}}, ["sfTokenProxy.config.listeners", "localhost:8080"]),
    "the probes on the port of a variable": ("example", proxy(extraEnv=[{"name": "SFPROXY_LISTEN", "value": "127.0.0.1:8081, [::1]:9090"}]), ["sfTokenProxy.config.listeners", "[::1]:9090", "sfTokenProxy.adminPort"]),
    "one port for two": ("example", config(listeners=[{"address": "localhost:9090"}]), ["sfTokenProxy.config.listeners", "localhost:9090"]),
    "two bundles": ("example", proxy(caBundle={"configMap": "ca"}, config={"upstream": {"ca_file": "/x"}}), ["sfTokenProxy.config.upstream.ca_file", "sfTokenProxy.caBundle"]),
    "folders apart": ("example", config(listeners=[{"address": f"localhost:844{n}", "tls": {"generate_in": f"/{n}/tls"}} for n in (3, 4)]), ["sfTokenProxy.config.listeners", "generate_in"]),
    "a folder of the system": ("example", config(listeners=[{"tls": {"generate_in": "/etc/tls"}}]), ["sfTokenProxy.config.listeners", "generate_in", "/etc"]),
    "a setting as a variable": ("example", proxy(extraEnv=[{"name": "SFPROXY_LOGIN_URL", "value": "x"}]), ["sfTokenProxy.extraEnv[0]", "SFPROXY_LOGIN_URL"]),
    "a secret as a variable": ("example", proxy(extraEnv=[{"name": "A"}, {"name": "SFPROXY_CLIENT_SECRET", "value": SECRET}]), ["sfTokenProxy.extraEnv[1]", "SFPROXY_CLIENT_SECRET"]),
    "the probes' port as a variable": ("example", proxy(extraEnv=[{"name": "SFPROXY_ADMIN_LISTEN", "value": "[::]:9191"}]), ["sfTokenProxy.extraEnv[0]", "SFPROXY_ADMIN_LISTEN", "sfTokenProxy.adminPort"]),
    "a policy with a configuration of its own": ("sf-token-proxy", {"admissionPolicy": {"enabled": True}, **proxy(config=CONFIG, existingConfigMap="")}, ["sfTokenProxy.config"]),
    "a policy with a Secret of its own": ("sf-token-proxy", {"admissionPolicy": {"enabled": True}, **proxy(existingSecret="", secret={"create": True, "stringData": {"a": "b"}})}, ["sfTokenProxy.secret.create"]),
    "a policy with the classic container": ("sf-token-proxy", {"admissionPolicy": {"enabled": True}, **proxy(classic={"enabled": True})}, ["sfTokenProxy.classic.enabled"]),
    # Secrets in the values
    "a client secret": ("example", grant(client_credentials={"client_id": "id", "client_secret": SECRET}), ["sfTokenProxy.config.orgs.main.grant.client_credentials.client_secret"]),
    "a private key": ("example", grant(jwt_bearer={"private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}"}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "a password": ("example", grant(password={"password": SECRET}), ["sfTokenProxy.config.orgs.main.grant.password.password"]),
    "a refresh token": ("example", grant(refresh_token={"refresh_token": SECRET}), ["sfTokenProxy.config.orgs.main.grant.refresh_token.refresh_token"]),
    "an access token": ("example", grant(static={"access_token": SECRET}), ["sfTokenProxy.config.orgs.main.grant.static.access_token"]),
    "a secret that is a number": ("example", grant(password={"password": 12345678}), ["sfTokenProxy.config.orgs.main.grant.password.password"]),
    "a sealing key": ("example", config(store={"file": {"directory": "/x", "key": SECRET}}), ["sfTokenProxy.config.store.file.key"]),
    "a secret in a map": ("example", grant(client_credentials={"client_id": "id", "client_secret": {"inline": SECRET}}), ["sfTokenProxy.config.orgs.main.grant.client_credentials.client_secret"]),
    "a secret as a value": ("example", grant(client_credentials={"client_id": "id", "client_secret": {"value": SECRET}}), ["sfTokenProxy.config.orgs.main.grant.client_credentials.client_secret"]),
    "a secret beside a reference": ("example", grant(jwt_bearer={"private_key": {"file": "/p", "value": SECRET}}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "a secret within a reference": ("example", grant(jwt_bearer={"private_key": {"file": {"inline": SECRET}}}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "a secret for its file": ("example", grant(jwt_bearer={"private_key": {"file": SECRET}}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "a secret for its variable": ("example", grant(jwt_bearer={"private_key": f"env:-----BEGIN {SECRET}"}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "a secret below its reference": ("example", grant(jwt_bearer={"private_key": f"file:/p\n{SECRET}"}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "two references": ("example", grant(jwt_bearer={"private_key": {"file": "/p", "env": "P"}}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "a reference to nothing": ("example", grant(jwt_bearer={"private_key": {"file": None}}), ["sfTokenProxy.config.orgs.main.grant.jwt_bearer.private_key"]),
    "secrets as a list": ("example", grant(client_credentials={"client_id": "id", "client_secret": [SECRET]}), ["sfTokenProxy.config.orgs.main.grant.client_credentials.client_secret"]),
    "a password in a map that is no grant": ("example", grant(password={"password": {"password": SECRET}}), ["sfTokenProxy.config.orgs.main.grant.password.password"]),
    "a refresh token in a map that is no grant": ("example", grant(refresh_token={"refresh_token": {"client_id": SECRET}}), ["sfTokenProxy.config.orgs.main.grant.refresh_token.refresh_token"]),
    "a sealing key in a map": ("example", config(store={"file": {"directory": "/x", "key": {"base64": SECRET}}}), ["sfTokenProxy.config.store.file.key"]),
    "a secret in a list": ("example", config(listeners=[{"tls": {"key": SECRET}}]), ["sfTokenProxy.config.listeners[0].tls.key"]),
}


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
@pytest.mark.parametrize("name", WRONG)
def test_refused(helm, name):
    chart, values, parts = WRONG[name]
    with pytest.raises(Refused) as refused:
        helm.render(chart, values)
    message = str(refused.value)
    # Helm 3 writes a.b, Helm 4 a JSON pointer /a/b; both name the chart, which is the alias, on a line of its own.
    assert re.search(".*?".join(re.escape(part) for part in parts), message, re.S), message
    assert SECRET not in message and "12345678" not in message


def test_the_table_is_long_enough():
    assert len(WRONG) >= 40


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_references_are_taken(helm):
    """The names of secrets are those of grants as well, and a reference has two forms."""
    for settings in [
        {"client_credentials": {"client_id": "id", "client_secret": {"file": "/var/run/secrets/sf-token-proxy/x"}}},
        {"client_credentials": {"client_id": "id", "client_secret": "env:THE_SECRET"}},
        {"refresh_token": {"client_id": "id", "refresh_token": {"env": "THE_TOKEN"}}},
        {"password": {"client_id": "id", "username": "u", "password": "file:/p", "client_secret": {"file": "/s", "env": None}}},
        {"refresh_token": {"client_id": "id", "client_secret": "file: /s", "refresh_token": {"file": "/r"}}},
    ]:
        assert helm.render("example", grant(**settings))
    # A port of the probes that a listener would have, had it not another by the variable.
    assert helm.render("example", proxy(adminPort=8080, extraEnv=[{"name": "SFPROXY_LISTEN", "value": "localhost:8081"}]))


def test_the_variables_that_count_beside_a_file_are_the_programs():
    program = re.search(r"const BESIDE_A_FILE.*?\];", (ROOT / "src/config/env.rs").read_text(), re.S)[0]
    template = re.search(r"\$beside := list(.*)-}}", (ROOT / "charts/sf-token-proxy-lib/templates/_container.tpl").read_text())[1]
    assert set(re.findall(r'"(SFPROXY_\w+)"', template)) | {"SFPROXY_ADMIN_LISTEN"} == set(re.findall(r'"(SFPROXY_\w+)"', program))


def test_every_setting_that_is_a_secret_is_looked_for():
    """Those that the program's schema has as references."""
    found = set()

    def walk(value):
        if isinstance(value, dict):
            found.update(name for name, about in value.get("properties", {}).items() if "a reference to a secret" in str(about.get("anyOf")))
        for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            walk(child)

    walk(json.loads((ROOT / "config/schema.json").read_text()))
    template = re.search(r"\$secrets := list(.*)-}}", (ROOT / "charts/sf-token-proxy-lib/templates/_scope.tpl").read_text())[1]
    assert len(found) > 5
    assert found == set(re.findall(r'"(\w+)"', template))


# Null takes a default out in Helm 4 and not in Helm 3.10: where that would matter it is refused, or it has not happened.


def defaults():
    """Every value of the library that is not empty, and every map that has one: dotted paths. For the kubelet no securityContext is not the same as false."""
    found = []

    def walk(values, path):
        for name, value in values.items():
            here = [*path, name]
            if value not in ("", False, None, [], {}) or (value is False and path == ["securityContext"]):
                found.append(".".join(here))
            if isinstance(value, dict):
                walk(value, here)

    walk(yaml.safe_load((ROOT / "charts/sf-token-proxy-lib/values.yaml").read_text()), [])
    return found


def test_every_default_is_looked_at():
    template = re.search(r"\$defaults := list(.*?)-}}", (ROOT / "charts/sf-token-proxy-lib/templates/_scope.tpl").read_text(), re.S)[1]
    assert sorted(re.findall(r'"([\w.]+)"', template)) == sorted(defaults())


EMPTY = ["storeVolume", "credentialsVolume", "secretItems", "extraEnv", "extraArgs", "extraVolumes", "extraVolumeMounts", "extraObjects", "commonLabels", "podAnnotations", "imagePullSecrets", "existingConfigMap", "podMonitor.labels"]


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
@pytest.mark.parametrize("path", [*defaults(), *EMPTY])
def test_null_is_refused_or_changes_nothing(helm, path):
    values = None
    for part in reversed(path.split(".")):
        values = {part: values}
    with_bundle = {"caBundle": {"configMap": "ca"}, **store("/data")["sfTokenProxy"]}
    if path.startswith("caBundle"):
        values = {"caBundle": {"configMap": "ca", **values["caBundle"]}} if values["caBundle"] else values
    try:
        made = helm.render("example", {"sfTokenProxy": {**with_bundle, **values}})
    except Refused as refused:
        # Of classic.enabled the example's templates ask before the library's do.
        assert (f"sfTokenProxy.{path}: null is refused" in str(refused) or path == "classic") and f"sfTokenProxy.{path}" in str(refused) and path in defaults()
        return
    assert helm.name.startswith("helm 3") or path not in defaults()
    if path != "caBundle":
        assert made == helm.render("example", {"sfTokenProxy": with_bundle})


def test_no_schema_has_an_open_map_of_known_names():
    """What has properties has no others: a wrong name would be nobody's."""

    def walk(value, at):
        if isinstance(value, dict):
            assert "properties" not in value or value.get("additionalProperties") is False, at
            for name, child in value.items():
                walk(child, [*at, name])

    for chart in ALL_CHARTS:
        walk(json.loads((ROOT / "charts" / chart / "values.schema.json").read_text()), [chart])


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)
def test_names_of_images_are_taken(helm):
    for repository in ["sf-token-proxy", "mirror/sf-token-proxy", "registry.acme.example:5000/mirror/sf-token-proxy", "localhost/sf-token-proxy", "a/b__c/d-e.f"]:
        assert helm.render("example", proxy(image={"repository": repository, "tag": "v1.0_rc.1-x"}))
