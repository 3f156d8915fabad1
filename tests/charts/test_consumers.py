"""Charts that depend on the library: one made word by word from docs/kubernetes.md, alone, under an umbrella, with what its author may have forgotten.

Each is written into the copy of charts/ that the tools work on, where the page's `file://../sf-token-proxy-lib` leads to the library.
"""

import re
import shutil

import pytest
import yaml

from test_pods import ours
from test_render import schema_problems
from tools import HELM3, HELMS, ROOT, Refused, named, one, pod_spec, run, work

PAGE = (ROOT / "docs/kubernetes.md").read_text()
WITH_HELM = PAGE.partition("\n## With Helm\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", WITH_HELM, re.S)
both = pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.name)


def block(beginning):
    return next(text for _, text in BLOCKS if text.lstrip().startswith(beginning))


ABOUT = "apiVersion: v2\nname: {name}\nversion: 0.1.0\n"
DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ printf "%s-%s" .Release.Name .Chart.Name | quote }}
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | quote }}
      app.kubernetes.io/instance: {{ .Release.Name | quote }}
"""


def chart(name, dependencies, templates=None, values=""):
    """Writes a chart and builds its dependencies; its place."""
    here = work() / name
    shutil.rmtree(here, ignore_errors=True)
    (here / "templates").mkdir(parents=True)
    (here / "Chart.yaml").write_text(ABOUT.format(name=name) + dependencies)
    (here / "values.yaml").write_text(values)
    for file, text in (templates or {}).items():
        (here / "templates" / file).write_text(text)
    run(HELM3, "dependency", "build", here)
    return here


def consumer(name="app", pod=None, objects=None, dependencies=None, values=None, **more):
    pod = pod or block("template:")
    templates = {"deployment.yaml": DEPLOYMENT + pod, "sf-token-proxy.yaml": objects or block('{{ include "sf-token-proxy.objects"'), **more}
    return chart(name, dependencies or block("dependencies:"), templates, values or block("sfTokenProxy:"))


def umbrella(name, *dependencies):
    return chart(name, yaml.safe_dump({"dependencies": [{"version": "0.1.0", "repository": f"file://../{of['name']}", **of} for of in dependencies]}))


def proxy(**values):
    return {"sfTokenProxy": values}


EVERYTHING = {
    "podAnnotations": {"note": "from the proxy"},
    "imagePullSecrets": [{"name": "pull"}],
    "existingSecret": "",
    "secret": {"create": True, "stringData": {"client-secret": "not-a-real-one"}},
    "podMonitor": {"enabled": True},
    "extraObjects": [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "extra"}}, "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Release.Name }}-extra\n"],
}


# What the page shows is enough


@both
def test_every_value_of_the_page_has_its_effect_in_the_chart_of_the_page(helm):
    docs = helm.render(consumer(), proxy(**EVERYTHING))
    assert [problem for problem in schema_problems(docs) if "Service/" not in problem] == []
    deployment = one(docs, "Deployment")
    spec = pod_spec(deployment)
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {"note": "from the proxy"}
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["sf-token-proxy-credentials"]["secret"]["secretName"] == one(docs, "Secret")["metadata"]["name"]
    assert volumes["sf-token-proxy-config"]["configMap"]["name"] == one(docs, "ConfigMap")["metadata"]["name"]
    assert one(docs, "PodMonitor")["spec"]["selector"]["matchLabels"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert {one(docs, kind)["metadata"]["name"] for kind in ["ServiceAccount", "Service"]} == {"extra", "r-extra"}


@both
def test_without_values_it_is_a_deployment_and_a_config_map(helm):
    helm.lint(consumer(), {})
    docs = helm.render(consumer(), {})
    assert schema_problems(docs) == []
    assert sorted(document["kind"] for document in docs) == ["ConfigMap", "Deployment"]
    assert {"annotations", "imagePullSecrets"}.isdisjoint([*one(docs, "Deployment")["spec"]["template"]["metadata"], *pod_spec(one(docs, "Deployment"))])
    assert helm.render(consumer(), proxy(config=None, existingConfigMap="c"))[0]["kind"] == "Deployment"


def without(include):
    """The page's pod without one of its includes, and what stands around it."""
    pod = re.sub(rf'\n *{{{{- with include "{include}" \. }}}}.*?{{{{- end }}}}', "", block("template:"), flags=re.S)
    assert include not in pod
    return pod


@both
@pytest.mark.parametrize("value", ["podAnnotations", "imagePullSecrets"])
def test_a_value_whose_include_is_missing_is_refused(helm, value):
    lacking = consumer(pod=without(f"sf-token-proxy.{value}"))
    assert helm.render(lacking, {})
    with pytest.raises(Refused, match=rf"sfTokenProxy\.{value}: nothing would come of it.*app/templates/deployment\.yaml"):
        helm.render(lacking, proxy(**{value: EVERYTHING[value]}))
    # It is the pod's own template that has to have it: another one does not help.
    beside = consumer(pod=without(f"sf-token-proxy.{value}"), **{"zz.yaml": f'# {{{{ include "sf-token-proxy.{value}" . | quote }}}}'})
    with pytest.raises(Refused, match=rf"sfTokenProxy\.{value}"):
        helm.render(beside, proxy(**{value: EVERYTHING[value]}))


@both
@pytest.mark.parametrize("value", ["podAnnotations", "imagePullSecrets", "extraObjects", "podMonitor"])
def test_the_admission_policy_refuses_what_it_cannot_do(helm, value):
    with pytest.raises(Refused, match=rf"sfTokenProxy\.{value}.*: (the admission policy puts|set podMonitor)"):
        helm.render("sf-token-proxy", {"admissionPolicy": {"enabled": True}, **proxy(**{value: EVERYTHING[value]})})


# Several in one release


def meets_no_other(docs, names):
    """Each pod mounts its own configuration and secret, each PodMonitor takes its own pods; no object is there twice."""
    ids = [(document["kind"], document["metadata"]["name"]) for document in docs]
    assert len(ids) == len(set(ids)), ids
    pods = [document for document in docs if document["kind"] == "Deployment"]
    assert len(pods) == len(names)
    for kind in ["ConfigMap", "Secret", "PodMonitor"]:
        assert len([document for document in docs if document["kind"] == kind]) == len(names), kind
    taken = []
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod_spec(pod)["volumes"]}
        config = one(docs, "ConfigMap", volumes["sf-token-proxy-config"]["configMap"]["name"])["data"]["config.yaml"]
        secret = one(docs, "Secret", volumes["sf-token-proxy-credentials"]["secret"]["secretName"])["stringData"]["client-secret"]
        labels = pod["spec"]["template"]["metadata"]["labels"]
        assert f"https://{secret}.my.salesforce.com" in config and labels["app.kubernetes.io/name"] == secret
        [monitor] = [document for document in docs if document["kind"] == "PodMonitor" and document["spec"]["selector"]["matchLabels"].items() <= labels.items()]
        taken.append(monitor["metadata"]["name"])
        for name in [monitor["metadata"]["name"], *(volume.get("configMap", volume.get("secret", {})).get("name", "x") for volume in volumes.values())]:
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63
    assert len(set(taken)) == len(pods)


def of(name, **more):
    """Values by which a mix-up would show: the org and the secret are called after the chart."""
    return {name: proxy(existingSecret="", secret={"create": True, "stringData": {"client-secret": name}}, podMonitor={"enabled": True}, config={"orgs": {"main": {"login_url": f"https://{name}.my.salesforce.com"}}}, **more)}


@both
@pytest.mark.parametrize("release", ["r", "shop", "shop-billing", "r" * 53])
@pytest.mark.parametrize("names", [("shop", "billing"), ("shopFront", "shopfront"), ("a" * 50, "a" * 51)], ids=["plain", "capitals", "long"])
def test_one_chart_under_two_aliases(helm, names, release):
    consumer()
    above = umbrella("above", *({"name": "app", "alias": alias} for alias in names))
    meets_no_other(helm.render(above, of(names[0]) | of(names[1]), release=release), names)


@both
@pytest.mark.parametrize("release", ["r", "shop-billing", "r" * 53])
def test_the_example_copied_twice(helm, release):
    for copied in ["shop", "billing"]:
        shutil.rmtree(work() / copied, ignore_errors=True)
        shutil.copytree(work() / "example", work() / copied)
        path = work() / copied / "Chart.yaml"
        path.write_text(path.read_text().replace("name: example", f"name: {copied}"))
    above = umbrella("above", {"name": "shop"}, {"name": "billing"})
    meets_no_other(helm.render(above, of("shop") | of("billing"), release=release), ["shop", "billing"])
    aliased = umbrella("above", {"name": "example", "alias": "shop"}, {"name": "example", "alias": "billing"})
    meets_no_other(helm.render(aliased, of("shop") | of("billing"), release=release), ["shop", "billing"])


@both
def test_names(helm):
    def name(values, release="r", of=None):
        return one(helm.render(of or consumer(), values, release=release), "ConfigMap")["metadata"]["name"]

    assert name({}) == "r-app-sf-token-proxy-config"
    assert name({}, "my-app") == name({}, "app").replace("app-", "my-app-", 1) == "my-app-sf-token-proxy-config"
    assert name(proxy(nameOverride="crm")) == "r-app-crm-config"
    assert name(proxy(fullnameOverride="crm")) == "crm-config"
    # Below an umbrella the release's name may contain those of two.
    consumer()
    assert name({}, "my-app", umbrella("above", {"name": "app"})) == "my-app-app-sf-token-proxy-config"
    cut = [name(proxy(fullnameOverride=long)) for long in ["x" * 50, "x" * 51, "x" * 52]]
    assert cut[0] == "x" * 50 + "-config" and len(set(cut)) == 3 and all(len(one) == 57 for one in cut)


@both
def test_names_that_would_be_the_same_are_refused(helm):
    consumer()
    twice = {"shop": proxy(fullnameOverride="same"), "billing": proxy(fullnameOverride="same", config={"threads": 2})}
    above = umbrella("above", {"name": "app", "alias": "shop"}, {"name": "app", "alias": "billing"})
    with pytest.raises(Refused, match=r"sfTokenProxy\.nameOverride: in this release above/charts/\w+ and above/charts/\w+ both name their objects same"):
        helm.render(above, twice)
    for between in ["left", "right"]:
        umbrella(between, {"name": "app"})
    with pytest.raises(Refused, match=r"above/charts/\w+/charts/app and above/charts/\w+/charts/app both name their objects r-app-sf-token-proxy"):
        helm.render(umbrella("above", {"name": "left"}, {"name": "right"}), {})
    # What makes no object has no name.
    consumer(values="sfTokenProxy: {existingConfigMap: c, existingSecret: s}")
    above = umbrella("above", {"name": "app", "alias": "shop"}, {"name": "app", "alias": "billing"})
    assert helm.render(above, {name: proxy(fullnameOverride="same") for name in twice})


@both
def test_a_checksum_of_the_objects_is_no_second_one(helm):
    sums = 'kind: Sums\nmetadata: {name: sums}\na: {{ include (print .Template.BasePath "/sf-token-proxy.yaml") . | sha256sum }}\nb: {{ include "sf-token-proxy.objects" . | sha256sum }}\n'
    assert len(helm.render(consumer(**{"aa.yaml": sums, "zz.yaml": sums}), {})) == 4


@both
def test_names_that_are_numbers_stay_texts(helm):
    consumer()
    docs = helm.render(umbrella("above", {"name": "app", "alias": "7"}), {"7": proxy(podMonitor={"enabled": True})}, release="1")
    assert one(docs, "PodMonitor")["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": "7", "app.kubernetes.io/instance": "1"}
    assert schema_problems(docs) == []


@both
def test_two_proxies_of_one_chart(helm):
    two = yaml.safe_load(block("dependencies:"))["dependencies"]
    objects = '{{ include "sf-token-proxy.objects" . }}\n{{ include "sf-token-proxy.objects" (dict "root" $ "values" .Values.other) }}\n'
    here = consumer(dependencies=yaml.safe_dump({"dependencies": [*two, {**two[0], "alias": "other"}]}), objects=objects)
    other = {"config": {"orgs": {"main": {"login_url": "https://other.my.salesforce.com"}}}}
    docs = helm.render(here, {"other": {"nameOverride": "other", **other}})
    assert "other.my" in one(docs, "ConfigMap", "r-app-other-config")["data"]["config.yaml"]
    assert "acme.my" in one(docs, "ConfigMap", "r-app-sf-token-proxy-config")["data"]["config.yaml"]
    with pytest.raises(Refused, match=r"sfTokenProxy\.nameOverride.*r-app-sf-token-proxy"):
        helm.render(here, {"other": other})


# What is forgotten, and what is switched off


@both
def test_a_forgotten_alias_is_told(helm):
    here = consumer(dependencies=block("dependencies:").replace("    alias: sfTokenProxy", "    #"))
    for values in [{}, proxy(image={"tag": "1"}, adminPort=9191, secretDefaultMode=288), {"sfTokenProxy": None}]:
        with pytest.raises(Refused, match=r"give the dependency `alias: sfTokenProxy` in Chart\.yaml"):
            helm.render(here, values)
    elsewhere = consumer(dependencies=block("dependencies:").replace("alias: sfTokenProxy", "alias: salesforce"))
    with pytest.raises(Refused, match=r"alias: sfTokenProxy"):
        helm.render(elsewhere, {})


@both
def test_the_dependencys_condition(helm):
    """As the page has it: each include within the condition."""
    guarded = "{{- if .Values.sfTokenProxy.enabled }}\n%s{{- end }}\n"
    parts = {"deployment.yaml": guarded % (DEPLOYMENT + block("template:")), "sf-token-proxy.yaml": guarded % block("{{ include")}
    for condition in ["\n    condition: sfTokenProxy.enabled\n", "\n"]:
        here = chart("app", block("dependencies:").rstrip().replace("alias: sfTokenProxy", "alias: sfTokenProxy" + condition.rstrip()) + "\n", parts, block("sfTokenProxy:"))
        assert len(helm.render(here, {})) == len(helm.render(here, proxy(enabled=True))) == 2
        assert helm.render(here, proxy(enabled=False)) == []
    # Without the condition and without the ifs it would be there although it is switched off.
    with pytest.raises(Refused, match=r"sfTokenProxy\.enabled: it is false"):
        helm.render(consumer(), proxy(enabled=False))
    with pytest.raises(Refused, match=r"enabled"):
        helm.render(consumer(), proxy(enabled="yes"))


@both
@pytest.mark.parametrize("of", ["example", "sf-token-proxy"])
def test_the_condition_of_the_charts_themselves(helm, of):
    above = umbrella("above", {"name": of, "alias": "it", "condition": "it.enabled"})
    some = {"dashboard": {"enabled": True}} if of == "sf-token-proxy" else {}
    assert helm.render(above, {"it": {"enabled": True, **some}})
    assert helm.render(above, {"it": {"enabled": False, **some}}) == []
    with pytest.raises(Refused, match=r"enabled"):
        helm.render(of, {"enabled": False})


# Words of the pages


def test_the_command_of_the_readme_works_as_it_is_written(tmp_path):
    """By the oldest Helm, which believes itself to be in an older Kubernetes than is supported."""
    [line] = re.findall(r"^(helm dependency build.*&& helm template.*)$", (ROOT / "README.md").read_text(), re.M)
    shutil.copytree(ROOT / "charts", tmp_path / "charts", ignore=shutil.ignore_patterns("Chart.lock"))
    done = run("bash", "-c", line, cwd=tmp_path, env={"PATH": f"{HELM3.parent}:/usr/bin:/bin", "HOME": str(tmp_path)})
    assert "kind: Deployment" in done and "name: sf-token-proxy" in done
    # It is the version that makes it work.
    with pytest.raises(Refused, match="kubeVersion"):
        run("bash", "-c", re.sub(r" --kube-version \S+", "", line), cwd=tmp_path, env={"PATH": f"{HELM3.parent}:/usr/bin:/bin", "HOME": str(tmp_path)})


def test_every_helm_template_of_the_pages_says_which_kubernetes():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md"), *(ROOT / "charts").glob("*/README.md")]
    commands = [line for page in pages for line in re.findall(r"helm template [^`\n]+", page.read_text()) if "charts/" in line]
    assert len(commands) == 2 and all("--kube-version 1.29.0" in command for command in commands), commands


@both
def test_the_address_with_an_existing_config_map_is_the_usual_one(helm):
    docs = helm.render(consumer(), proxy(config=None, existingConfigMap="c"))
    assert named(named(pod_spec(one(docs, "Deployment"))["containers"], "app")["env"], "SALESFORCE_URL")["value"] == "http://localhost:8080"
    assert ours(pod_spec(one(docs, "Deployment")))
    assert "`existingConfigMap` the chart knows nothing: it then is\n  `http://localhost:8080`, or what `SFPROXY_LISTEN` in `extraEnv` says" in WITH_HELM
    docs = helm.render(consumer(), proxy(config=None, existingConfigMap="c", extraEnv=[{"name": "SFPROXY_LISTEN", "value": "localhost:7777"}]))
    assert named(named(pod_spec(one(docs, "Deployment"))["containers"], "app")["env"], "SALESFORCE_URL")["value"] == "http://localhost:7777"
