"""What a pod may say here. What is not known is refused: nothing that a chart says is passed over in silence.

Owns: the lists of fields and the defaults of Kubernetes. Invariants: a spec that has been checked has only known fields.
Units: memory in bytes, cpu in cores. Fails with: `Refused`, with the place.
Source: Kubernetes API, core/v1; `kubernetes.md` §2.
"""

import re


class Refused(ValueError):
    """The stand-in does not know this, or the kubelet would not run it."""


# True: any value; a dictionary: those fields; a list: a list of such.
ANY = True
KEY_TO_PATH = [{"key": ANY, "path": ANY, "mode": ANY}]
FIELD = {"fieldPath": ANY, "apiVersion": ANY}
RESOURCE = {"resource": ANY, "containerName": ANY, "divisor": ANY}
KEY = {"name": ANY, "key": ANY, "optional": ANY}
DOWNWARD = [{"path": ANY, "mode": ANY, "fieldRef": FIELD, "resourceFieldRef": RESOURCE}]
HTTP_GET = {"path": ANY, "port": ANY, "host": ANY, "scheme": ANY, "httpHeaders": [{"name": ANY, "value": ANY}]}
HANDLER = {"exec": {"command": ANY}, "httpGet": HTTP_GET, "tcpSocket": {"port": ANY, "host": ANY}}
PROBE = HANDLER | {
    "initialDelaySeconds": ANY, "periodSeconds": ANY, "timeoutSeconds": ANY, "successThreshold": ANY,
    "failureThreshold": ANY, "terminationGracePeriodSeconds": ANY,
}
HOOK = HANDLER | {"sleep": {"seconds": ANY}}
SECCOMP = {"type": ANY}
CONTAINER = {
    "name": ANY, "image": ANY, "imagePullPolicy": ANY, "command": ANY, "args": ANY, "workingDir": ANY, "restartPolicy": ANY,
    "env": [{"name": ANY, "value": ANY, "valueFrom": {"secretKeyRef": KEY, "configMapKeyRef": KEY, "fieldRef": FIELD, "resourceFieldRef": RESOURCE}}],
    "envFrom": [{"prefix": ANY, "secretRef": {"name": ANY, "optional": ANY}, "configMapRef": {"name": ANY, "optional": ANY}}],
    "ports": [{"name": ANY, "containerPort": ANY, "protocol": ANY}],
    "resources": {"requests": {"cpu": ANY, "memory": ANY}, "limits": {"cpu": ANY, "memory": ANY}},
    "volumeMounts": [{"name": ANY, "mountPath": ANY, "subPath": ANY, "readOnly": ANY}],
    "livenessProbe": PROBE, "readinessProbe": PROBE, "startupProbe": PROBE,
    "lifecycle": {"postStart": HOOK, "preStop": HOOK},
    "terminationMessagePath": ANY, "terminationMessagePolicy": ANY,
    "securityContext": {
        "runAsUser": ANY, "runAsGroup": ANY, "runAsNonRoot": ANY, "allowPrivilegeEscalation": ANY, "readOnlyRootFilesystem": ANY,
        "privileged": ANY, "capabilities": {"add": ANY, "drop": ANY}, "seccompProfile": SECCOMP,
    },
}
SECRET = {"secretName": ANY, "items": KEY_TO_PATH, "defaultMode": ANY, "optional": ANY}
CONFIG_MAP = {"name": ANY, "items": KEY_TO_PATH, "defaultMode": ANY, "optional": ANY}
POD = {
    "initContainers": [CONTAINER], "containers": [CONTAINER], "restartPolicy": ANY, "terminationGracePeriodSeconds": ANY,
    "automountServiceAccountToken": ANY, "serviceAccountName": ANY, "enableServiceLinks": ANY, "hostname": ANY,
    "securityContext": {
        "runAsUser": ANY, "runAsGroup": ANY, "runAsNonRoot": ANY, "fsGroup": ANY, "fsGroupChangePolicy": ANY,
        "supplementalGroups": ANY, "seccompProfile": SECCOMP,
    },
    "volumes": [{
        "name": ANY, "emptyDir": {"medium": ANY, "sizeLimit": ANY}, "secret": SECRET, "configMap": CONFIG_MAP,
        "downwardAPI": {"items": DOWNWARD, "defaultMode": ANY},
        "projected": {"defaultMode": ANY, "sources": [{
            "secret": {"name": ANY, "items": KEY_TO_PATH, "optional": ANY}, "configMap": {"name": ANY, "items": KEY_TO_PATH, "optional": ANY},
            "downwardAPI": {"items": DOWNWARD}, "serviceAccountToken": {"path": ANY, "audience": ANY, "expirationSeconds": ANY},
        }]},
    }],
    # The scheduler's business, or the registry's: nothing of it is seen by a running pod.
    "nodeSelector": ANY, "tolerations": ANY, "affinity": ANY, "topologySpreadConstraints": ANY, "priorityClassName": ANY,
    "schedulerName": ANY, "imagePullSecrets": ANY, "dnsPolicy": ANY,
}
POLICIES = {"Deployment": ("Always",), "Job": ("OnFailure", "Never"), "CronJob": ("OnFailure", "Never"), "Pod": ("Always", "OnFailure", "Never")}


def check(value, known, place):
    if known is ANY or value is None:
        return
    if isinstance(known, list):
        if not isinstance(value, list):
            raise Refused(f"{place}: expected a list")
        for number, item in enumerate(value):
            check(item, known[0], f"{place}[{number}]")
        return
    if not isinstance(value, dict):
        raise Refused(f"{place}: expected fields, found {value!r}")
    for name, item in value.items():
        if name not in known:
            raise Refused(f"{place}.{name}: not known to this stand-in for a kubelet")
        check(item, known[name], f"{place}.{name}")


def pod_of(document):
    """Kind, metadata and spec of the pod that a document makes."""
    kind, spec = document["kind"], document["spec"]
    if kind == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template = document if kind == "Pod" else spec["template"]
    metadata = {"labels": {}, "annotations": {}} | {name: value for name, value in (template.get("metadata") or {}).items() if value is not None}
    metadata.setdefault("name", document["metadata"]["name"])
    pod = template["spec"]
    check(pod, POD, f"{kind}/{document['metadata']['name']}: spec")
    policy = pod.get("restartPolicy", "Always")
    if policy not in POLICIES[kind]:
        raise Refused(f"{kind}: restartPolicy {policy} is not allowed")
    names = [container["name"] for container in pod.get("initContainers") or []] + [container["name"] for container in pod["containers"]]
    if len(set(names)) != len(names):
        raise Refused(f"two containers of one name: {names}")
    for container in pod["containers"]:
        if "restartPolicy" in container:
            raise Refused(f"{container['name']}: restartPolicy belongs to init containers")
    for container in pod.get("initContainers") or []:
        if container.get("restartPolicy", "Always") != "Always":
            raise Refused(f"{container['name']}: restartPolicy must be Always")
        if "restartPolicy" not in container and any(name in container for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")):
            raise Refused(f"{container['name']}: an init container that ends has no probes and hooks")
    if len({volume["name"] for volume in pod.get("volumes") or []}) != len(pod.get("volumes") or []):
        raise Refused("two volumes of one name")
    return kind, metadata, pod


SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": 1e-3}


def quantity(text):
    """`64Mi`, `10m`, `0.5`."""
    found = re.fullmatch(r"([0-9.]+)(|[kMG]|[KMG]i|m)", str(text))
    if not found:
        raise Refused(f"not a quantity: {text!r}")
    return float(found[1]) * SUFFIXES[found[2]]


def expand(text, variables):
    """`$(NAME)` where that is known; `$$(NAME)` is the text `$(NAME)`."""
    return re.sub(r"\$\$|\$\(([A-Za-z_.-][\w.-]*)\)", lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]), str(text))


def service_links(services):
    """What every container of a namespace is told about its Services (in the form of Docker's links)."""
    variables = {}
    for name, (address, ports) in services.items():
        prefix = name.upper().replace("-", "_")
        variables[f"{prefix}_SERVICE_HOST"] = address
        for number, (port_name, port) in enumerate(ports):
            if number == 0:
                variables[f"{prefix}_SERVICE_PORT"] = str(port)
                variables[f"{prefix}_PORT"] = f"tcp://{address}:{port}"
            if port_name:
                variables[f"{prefix}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(port)
            variables |= {
                f"{prefix}_PORT_{port}_TCP": f"tcp://{address}:{port}", f"{prefix}_PORT_{port}_TCP_PROTO": "tcp",
                f"{prefix}_PORT_{port}_TCP_PORT": str(port), f"{prefix}_PORT_{port}_TCP_ADDR": address,
            }
    return variables
