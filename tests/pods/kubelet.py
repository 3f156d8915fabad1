"""A stand-in for the kubelet: runs one rendered pod with podman, in the order and by the rules of Kubernetes.

    Cluster   the Secrets, ConfigMaps and Services of the rendered documents, and what is changed of them later
    Pod       the init containers in order, native sidecars among them, then the apps; their end, and the pod's

What it copies: order of the start, probes, restarts with back-off, volumes and their updates, environment with service links, security
context, limits, hooks, the order and grace of the end, termination messages, the end of a Job's pod. What it does not: scheduling,
admission, Services' traffic, NetworkPolicy, eviction.
Owns: containers, folders, threads; `remove` ends them all, whatever has happened. Invariants: waits are bounded; unknown
fields are refused. Units: seconds. Fails with: `Refused`, `Failed`, `Late`.
Source: `kubernetes.md` §2; Kubernetes kuberuntime_manager.go, kuberuntime_termination_order.go.
"""

import base64
import contextlib
import threading
import time
import uuid

from container import Container
from podman import remove
from spec import Refused, expand, pod_of, quantity, service_links
from volumes import EmptyDir, Written, files_of

KUBERNETES = {"kubernetes": ("10.96.0.1", [("https", 443)])}


class Late(AssertionError):
    """Something did not come in its time."""


class Cluster:
    """What the API server would hold of the documents."""

    def __init__(self, documents, namespace="default"):
        self.documents, self.namespace = documents, namespace
        self.secrets = {d["metadata"]["name"]: secret_data(d) for d in documents if d["kind"] == "Secret"}
        self.config_maps = {
            d["metadata"]["name"]: {key: value.encode() for key, value in (d.get("data") or {}).items()} for d in documents if d["kind"] == "ConfigMap"
        }
        self.services = dict(KUBERNETES)
        for number, document in enumerate(d for d in documents if d["kind"] == "Service"):
            ports = [(port.get("name"), port["port"]) for port in document["spec"]["ports"]]
            self.services[document["metadata"]["name"]] = (f"10.96.0.{10 + number}", ports)

    def secret(self, name):
        return self.secrets.get(name)

    def config_map(self, name):
        return self.config_maps.get(name)

    def document(self, kind, name=None):
        """The one document of that kind (and name)."""
        found = [d for d in self.documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
        if len(found) != 1:
            raise Refused(f"{len(found)} documents are a {kind} {name or ''}")
        return found[0]


def secret_data(document):
    data = {key: base64.b64decode(value) for key, value in (document.get("data") or {}).items()}
    return data | {key: value.encode() for key, value in (document.get("stringData") or {}).items()}


class Pod:
    """One pod, in a network that is there already; `images` has names of this machine for those of the spec."""

    def __init__(self, document, cluster, scratch, name, network, images, trusted=None):
        self.kind, self.metadata, self.spec = pod_of(document)
        self.cluster, self.network, self.addresses = cluster, network, network.addresses
        self.images, self.trusted = images, trusted
        self.id = name
        self.uid = str(uuid.uuid4())
        self.scratch = scratch / self.id
        self.scratch.mkdir(parents=True)
        self.hostname = self.spec.get("hostname", self.metadata["name"])[:63]
        self.grace = self.spec.get("terminationGracePeriodSeconds", 30)
        self.since, self.events, self.refused = time.monotonic(), [], None
        self.made, self.volumes, self.service_account = [], {}, None
        self.change = threading.Condition()
        self.ending = threading.Event()
        self.thread = None
        inits = self.spec.get("initContainers") or []
        self.inits = [Container(self, spec, "sidecar" if "restartPolicy" in spec else "init") for spec in inits]
        self.apps = [Container(self, spec, "app") for spec in self.spec["containers"]]
        self.containers = self.inits + self.apps
        self.sidecars = [container for container in self.inits if container.kind == "sidecar"]
        try:
            self.hosts = self.scratch / "hosts"
            names = "".join(f"{address}\t{self.hostname}\n" for address in self.addresses)
            self.hosts.write_text(f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{names}")
            self.make_volumes()
        except BaseException:
            self.remove()
            raise

    def __getitem__(self, name):
        return next(container for container in self.containers if container.name == name)

    # Waiting

    def event(self, who, what):
        self.events.append(f"{time.monotonic() - self.since:7.2f} s  {who}: {what}")

    def changed(self):
        with self.change:
            self.change.notify_all()

    def wait(self, what, condition, seconds):
        """Until it is so; `what` is told when it does not come."""
        until = time.monotonic() + seconds
        with self.change:
            while not condition():
                if self.refused:
                    raise Refused(self.refused)
                left = until - time.monotonic()
                if left <= 0:
                    raise Late(f"{self.id}: {what}: not within {seconds} s\n{self.describe()}")
                self.change.wait(min(left, 0.2))

    def describe(self):
        lines = [*self.events]
        for container in self.containers:
            lines.append(f"--- {container.name}: {len(container.instances)} instances")
            with contextlib.suppress(Exception):
                lines += container.log().splitlines()[-12:]
        return "\n".join(lines)

    # Volumes and environment

    def make_volumes(self):
        fs_group = (self.spec.get("securityContext") or {}).get("fsGroup")
        for volume in self.spec.get("volumes") or []:
            folder = self.scratch / "volumes" / volume["name"]
            if "emptyDir" in volume:
                self.volumes[volume["name"]] = EmptyDir(folder, fs_group, volume["emptyDir"] or {})
            elif files := files_of(volume, self.cluster, self.downward):
                self.volumes[volume["name"]] = Written(folder, fs_group, files)
            else:
                raise Refused(f"volume {volume['name']}: {[kind for kind in volume if kind != 'name']}")
        if self.spec.get("automountServiceAccountToken", True):
            files = {"token": (b"practice.service-account.token", 0o644), "namespace": (self.cluster.namespace.encode(), 0o644)}
            self.service_account = Written(self.scratch / "volumes" / ".service-account", fs_group, lambda: files)

    def sync(self):
        """What a kubelet does about once a minute: Secrets and ConfigMaps that have changed are written; how many volumes changed."""
        return sum(volume.update() for volume in self.volumes.values() if isinstance(volume, Written))

    def field(self, path):
        fields = {
            "metadata.name": self.metadata["name"], "metadata.namespace": self.cluster.namespace, "metadata.uid": self.uid,
            "spec.nodeName": "node", "spec.serviceAccountName": self.spec.get("serviceAccountName", "default"),
            "status.podIP": self.addresses[0], "status.podIPs": ",".join(self.addresses), "status.hostIP": "10.0.0.1",
            "metadata.labels": pairs(self.metadata["labels"]), "metadata.annotations": pairs(self.metadata["annotations"]),
        }
        for part in ("labels", "annotations"):
            fields |= {f"metadata.{part}['{key}']": value for key, value in self.metadata[part].items()}
        if path not in fields:
            raise Refused(f"fieldPath {path}")
        return fields[path]

    def resource(self, wanted, container):
        spec = self[wanted["containerName"]].spec if "containerName" in wanted else container.spec
        part, _, name = wanted["resource"].partition(".")
        value = ((spec.get("resources") or {}).get(part) or {}).get(name)
        if value is None:
            raise Refused(f"resourceFieldRef {wanted['resource']}: not set")
        return str(-int(-quantity(value) // quantity(wanted.get("divisor", 1))))

    def downward(self, item):
        if "fieldRef" in item:
            return self.field(item["fieldRef"]["fieldPath"])
        return self.resource(item["resourceFieldRef"], None)

    def environment(self, container):
        """In Kubernetes' order: Services, envFrom, env; the later wins."""
        services = self.cluster.services if self.spec.get("enableServiceLinks", True) else KUBERNETES
        variables = service_links(services)
        for source in container.spec.get("envFrom") or []:
            for kind, get in (("secretRef", self.cluster.secret), ("configMapRef", self.cluster.config_map)):
                if wanted := source.get(kind):
                    data = get(wanted["name"])
                    if data is None and not wanted.get("optional"):
                        raise Refused(f"{kind} {wanted['name']} does not exist, so the pod does not start")
                    variables |= {source.get("prefix", "") + key: value.decode() for key, value in (data or {}).items()}
        for variable in container.spec.get("env") or []:
            value = self.value_of(variable, container, variables)
            if value is not None:
                variables[variable["name"]] = value
        return variables

    def value_of(self, variable, container, variables):
        wanted = variable.get("valueFrom")
        if not wanted:
            return expand(variable.get("value") or "", variables)
        if "fieldRef" in wanted:
            return self.field(wanted["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in wanted:
            return self.resource(wanted["resourceFieldRef"], container)
        reference, get = (wanted["secretKeyRef"], self.cluster.secret) if "secretKeyRef" in wanted else (wanted["configMapKeyRef"], self.cluster.config_map)
        found = (get(reference["name"]) or {}).get(reference["key"])
        if found is None and not reference.get("optional"):
            raise Refused(f"{reference['name']} has no key {reference['key']}, so the pod does not start")
        return None if found is None else found.decode()

    # Its life

    def start(self):
        """Begins; the start goes on by itself."""
        self.since = time.monotonic()
        self.thread = threading.Thread(target=self.bring_up, daemon=True)
        self.thread.start()
        return self

    def bring_up(self):
        for container in self.inits:
            container.begin()
            # A sidecar lets the next one start when it has started up; another one when it has ended well.
            passed = container.started if container.kind == "sidecar" else container.done
            if not self.until(passed.is_set):
                return
            if container.kind == "init" and container.now.exit_code != 0:
                self.event("pod", "an init container failed")
                return
        for container in self.apps:
            container.begin()
            # The kubelet starts the next one when the postStart hook has returned.
            if not self.until(lambda container=container: container.hooked.is_set() or container.done.is_set()):
                return
        if self.kind in ("Job", "CronJob", "Pod"):
            if self.until(lambda: all(container.done.is_set() for container in self.apps)):
                self.event("pod", "all apps have ended")
                self.end_sidecars(time.monotonic() + self.grace)

    def until(self, condition):
        with self.change:
            while not condition():
                if self.ending.is_set() or self.refused:
                    return False
                self.change.wait(0.2)
        return True

    def is_ready(self):
        return all(container.ready.is_set() for container in self.sidecars + self.apps)

    def wait_ready(self, seconds=90):
        self.wait("the pod is Ready", self.is_ready, seconds)
        return self

    def is_over(self):
        return all(container.done.is_set() for container in self.apps + self.sidecars)

    def wait_over(self, seconds):
        """Until all apps and sidecars have ended for good: a Job's pod does so by itself."""
        self.wait("the pod is over", self.is_over, seconds)
        return self

    def phase(self):
        return "Succeeded" if all(container.now and container.now.exit_code == 0 for container in self.apps) else "Failed"

    def end_sidecars(self, deadline):
        """The last one first, each when those after it are gone."""
        self.stop_all(self.sidecars, deadline)

    def delete(self, grace=None):
        """As when a pod is deleted; how long it took."""
        begun = time.monotonic()
        self.event("pod", "deleted")
        self.ending.set()
        self.changed()
        self.stop_all(self.sidecars + self.apps, begun + (self.grace if grace is None else grace))
        if self.thread:
            self.thread.join(5)
        return time.monotonic() - begun

    def stop_all(self, containers, deadline):
        """All preStop hooks at once; then SIGTERM for apps at once, for a sidecar when all apps and the later sidecars are gone."""
        for container in containers:
            container.stopping.set()
        threads = []
        for container in containers:
            turn = None
            if container.kind == "sidecar":
                later = self.sidecars[self.sidecars.index(container) + 1:] + self.apps
                turn = lambda deadline, later=later: self.wait_for(later, deadline)
            threads.append(threading.Thread(target=container.stop, args=(deadline, turn), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0) + 40)

    def wait_for(self, containers, deadline):
        with self.change:
            while not all(container.now is None or container.now.over.is_set() for container in containers):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self.change.wait(min(left, 0.2))

    def remove(self):
        """Everything away, at once and whatever state it is in; whoever still waits for something of it is told."""
        self.refused = self.refused or "it has been removed"
        self.ending.set()
        for container in self.containers:
            container.stopping.set()
            if container.now:
                container.kill()
        for container in self.containers:
            container.end_of_thread()
        if self.thread:
            self.thread.join(10)
        remove(self.made)
        for volume in [*self.volumes.values(), *([self.service_account] if self.service_account else [])]:
            volume.remove()


def pairs(values):
    return "".join(f'{key}="{value}"\n' for key, value in sorted(values.items()))
