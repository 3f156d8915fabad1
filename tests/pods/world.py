"""What surrounds a pod under test: the practice org in the pod's network, the rendered chart, the objects that its user makes.

The practice org is the world outside: it runs before the pod and is no part of it. It stands in the pod's network because nothing leads out of that.
Owns: the org's process, networks, pods, folders; `close` ends them all. Invariants: every test has a world of its own.
Units: seconds. Fails with: `Failed`, `Late`, what helm said.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import yaml
from kubelet import Cluster, Late, Pod
from podman import Failed, Network, run

# Of every pod: the first is the one that probes come to.
ADDRESSES = ("10.244.0.7", "fd00:10:244::7")
ROOT = pathlib.Path(__file__).resolve().parents[2]
# As tests/clients: an access token of the practice org, but not the placeholder that the proxy gives to SDKs.
TOKEN = re.compile(r"00D[0-9A-Za-z]{12,15}!(?!SFPROXY\.placeholder)[0-9A-Za-z._]{20,}")
SERIES = re.compile(r"^(sf_token_proxy_\w+|process_\w+)(?:\{(.*)\})? (\S+)$")


class Tools:
    """Where things are; set by run.py."""

    image = app_image = box_image = org_binary = node_modules = helm = charts = None
    # Merged into all values; `--values` replaces it.
    values = {"sfTokenProxy": {"config": {"reload": {"interval": "1s"}}}}


class Org:
    """The practice org, a process of this machine in the pod's network."""

    def __init__(self, network, scratch):
        self.network, self.out = network, scratch / "org.out"
        self.folder = scratch / "org"
        self.folder.mkdir()
        summary = scratch / "org.json"
        command = ["nsenter", f"--net={network.path}", Tools.org_binary, "demo", "--org-only", "--summary", summary]
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env={"TMPDIR": str(self.folder), "PATH": os.environ["PATH"]})
        until = time.monotonic() + 30
        while not summary.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.close()
                raise Failed(f"the practice org did not come up: {self.out.read_text()[-500:]}")
            time.sleep(0.02)
        self.about = json.loads(summary.read_text())
        self.apps = self.about["apps"]
        self.ca = pathlib.Path(self.about["ca_file"]).read_text()

    def control(self, call, **body):
        """One call of its control API."""
        verb = ["-X", "POST", "-d", json.dumps(body)] if call not in ("stats", "requests") else []
        done = self.network.inside("curl", "-sS", "-m", 10, "-w", "\n%{http_code}", *verb, f"{self.about['control']}/control/{call}")
        text, _, status = done.stdout.rpartition("\n")
        if status != "200":
            raise Failed(f"control/{call}: {status} {text}")
        return json.loads(text)

    def stats(self):
        return self.control("stats")

    def secrets(self):
        """Contents that must be nowhere: whole values, and the lines of keys."""
        found = []
        for file in pathlib.Path(self.about["ca_file"]).parent.iterdir():
            if file.name != "ca.pem":
                found += [line for line in file.read_text().splitlines() if len(line) > 20 and not line.startswith("-----")]
        return found

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class World:
    def __init__(self, scratch, name):
        self.scratch, self.name = scratch, name
        self.pods, self.watched, self.canaries = [], {}, []
        # Set when all is being removed: whoever still waits is told.
        self.over, self.closing = threading.Event(), threading.Lock()
        scratch.mkdir(parents=True)
        self.network = Network(name, ADDRESSES)
        self.its_org = None

    @property
    def org(self):
        """The practice org; it is started when it is first spoken of."""
        if not self.its_org:
            self.its_org = Org(self.network, self.scratch)
            self.canaries += self.its_org.secrets()
        return self.its_org

    # The chart

    def values(self, **changes):
        """What a user writes into the values: names, addresses, no secret."""
        app = self.org.apps["client_credentials"]
        values = {
            "fullnameOverride": "shop",
            "deployment": {"args": ["serve"]},
            "job": {"enabled": True},
            "sfTokenProxy": {
                "caBundle": {"configMap": "org-ca"},
                "config": {
                    "orgs": {"main": {
                        "login_url": self.org.apps["login_url"],
                        "grant": {"client_credentials": {"client_id": app["client_id"], "client_secret": "file:/var/run/secrets/sf-token-proxy/client-secret"}},
                    }},
                },
            },
        }
        return merged(merged(values, Tools.values), changes)

    def jwt(self):
        """The grant by key, in place of the secret's."""
        app = self.org.apps["jwt"]
        grant = {"jwt_bearer": {"client_id": app["client_id"], "username": app["username"], "private_key": "file:/var/run/secrets/sf-token-proxy/key.pem"}, "client_credentials": None}
        return {"sfTokenProxy": {"config": {"orgs": {"main": {"grant": grant}}}}}

    def render(self, values, chart="example"):
        file = self.scratch / f"values-{time.monotonic_ns()}.json"
        file.write_text(json.dumps(values))
        done = run(Tools.helm, "template", "shop", Tools.charts / chart, "--kube-version", "1.31.0", "-f", file, seconds=60)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def cluster(self, documents):
        """The rendered objects and those that the user has made: a Secret, the authority; and a Service that has our name."""
        service = {"kind": "Service", "metadata": {"name": "sf-token-proxy"}, "spec": {"ports": [{"name": "proxy", "port": 8080}, {"name": "metrics", "port": 9090}]}}
        cluster = Cluster([*documents, service])
        cluster.config_maps.setdefault("org-ca", {"ca.crt": self.org.ca.encode()})
        if "salesforce" not in cluster.secrets:
            files = {"client-secret": self.org.apps["client_credentials"]["secret_file"], "key.pem": self.org.apps["jwt"]["key_file"]}
            cluster.secrets["salesforce"] = {name: pathlib.Path(file).read_bytes() for name, file in files.items()}
        return cluster

    def pod(self, kind="Deployment", change=None, cluster=None, **changes):
        """A pod of the rendered chart, not yet started. `change` breaks the document, for the tests of the tests."""
        cluster = cluster or self.cluster(self.render(self.values(**changes)))
        document = cluster.document(kind)
        if change:
            change(document)
        return self.run(document, cluster)

    def run(self, document, cluster, trusted=None):
        """`trusted`: a file in place of the images' own authorities."""
        if self.over.is_set():
            raise Late("no pod in a world that has been closed")
        # What a registry would give for the names that the charts and the documentation have.
        names = ("sf-token-proxy:0.1.0", "registry.acme.example/sf-token-proxy:0.1.0")
        images = dict.fromkeys(names, Tools.image) | {"my-app:1.0": Tools.app_image}
        pod = Pod(document, cluster, self.scratch, f"{self.name}-{len(self.pods)}", self.network, images, trusted)
        self.pods.append(pod)
        return pod

    # Looking at the proxy from this machine, in the pod's network

    def get(self, path, host="127.0.0.1", port=9090, method="GET", check=True):
        """Status and body."""
        host = f"[{host}]" if ":" in host else host
        done = self.network.inside("curl", "-sg", "-m", 10, "-X", method, "-w", "\n%{http_code}", f"http://{host}:{port}{path}", check=False)
        text, _, status = done.stdout.rpartition("\n")
        if check and status == "000":
            raise Failed(f"{path}: no answer, curl says {done.returncode}")
        return int(status or 0), text

    def metrics(self):
        """Name, labels, value of every series now; the page is kept, to be searched for canaries."""
        _, page = self.get("/metrics")
        self.watched[f"metrics {len(self.watched)}"] = page
        found = []
        for line in page.splitlines():
            if series := SERIES.match(line):
                found.append((series[1], dict(re.findall(r'(\w+)="([^"]*)"', series[2] or "")), float(series[3])))
        return found

    def metric(self, name, **labels):
        """The sum of the series with these labels; None when there is none."""
        name = name if name.startswith("process_") else f"sf_token_proxy_{name}"
        found = [value for series, its, value in self.metrics() if series == name and labels.items() <= its.items()]
        return sum(found) if found else None

    def eventually(self, what, condition, seconds=60):
        """Until it is so; what it then was."""
        until = time.monotonic() + seconds
        seen = None
        while time.monotonic() < until:
            with contextlib.suppress(Failed):
                if seen := condition():
                    return seen
            if self.over.wait(0.1):
                raise Late(f"{what}: the world has been closed")
        raise Late(f"{what}: not within {seconds} s; last seen {seen!r}\n" + "\n".join(pod.describe() for pod in self.pods))

    def listening(self):
        """Addresses that something listens on in the pod's network, by process name."""
        done = self.network.inside("ss", "-Hltnp")
        return [(line.split()[3], line.partition('users:(("')[2].partition('"')[0]) for line in done.stdout.splitlines()]

    # The end

    def leaks(self):
        """Where a secret or a token stands that must not; the secret itself is not told."""
        texts = dict(self.watched)
        for pod in self.pods:
            for container in pod.containers:
                texts[f"{pod.id} log of {container.name}"] = container.log()
                for number, instance in enumerate(container.instances):
                    texts[f"{pod.id} message {number} of {container.name}"] = instance.message or ""
            texts[f"{pod.id} events"] = "\n".join(pod.events)
        return searched(texts, self.canaries)

    def close(self):
        """From any thread, more than once: by the test's, and by the run's when that is given up."""
        self.over.set()
        with self.closing:
            for pod in self.pods:
                pod.remove()
            if self.its_org:
                self.its_org.close()
            self.network.remove()


def searched(texts, canaries):
    bad = [where for where, text in texts.items() if TOKEN.search(text) or any(canary in text for canary in canaries)]
    return bad


def merged(values, changes):
    """Helm's way: maps are merged, anything else replaces."""
    if not isinstance(values, dict) or not isinstance(changes, dict):
        return changes
    return values | {key: merged(values[key], change) if key in values else change for key, change in changes.items()}


def output(container):
    """What the app has said: `first`, `summary` and the last `progress`."""
    said = {}
    for line in container.log().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            said |= json.loads(line)
    return said
