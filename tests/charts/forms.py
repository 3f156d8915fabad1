"""The kustomize component's patches, the snippet of docs/kubernetes.md and the tables of the charts' READMEs, made from the charts.

One definition: the library's templates. Everything here is derived, and test_generated.py fails when it is stale; UPDATE=1 writes it.
"""

import re
import subprocess

import yaml

from tools import HELMS, ROOT, TOOLS, kustomized, named, one, pod_spec, run, work

COMPONENT = ROOT / "charts/kustomize/component"
DOCS = ROOT / "docs/kubernetes.md"
KINDS = {"Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1", "CronJob": "batch/v1"}
# The names that the component and the snippet take; the admission policy's defaults are the same.
NAMES = {"sfTokenProxy": {"config": None, "existingConfigMap": "sf-token-proxy-config", "existingSecret": "sf-token-proxy-credentials"}}

# What a reader wants to know where the line stands.
COMMENTS = {
    "restartPolicy: Always": "a native sidecar: before the app's containers, and after them",
    "path: /startupz": "the app's containers start when this has passed",
    "path: /livez": "never asks Salesforce",
    "defaultMode: 0444": "only this container mounts it",
}


def sidecar():
    """The container and the volumes, as the library renders them."""
    spec = pod_spec(one(HELMS[0].render("example", NAMES), "Deployment"))
    return named(spec["initContainers"], "sf-token-proxy"), spec["volumes"]


class Dumper(yaml.SafeDumper):
    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data):
        return True


def as_yaml(value, indent=0):
    text = yaml.dump(value, Dumper=Dumper, sort_keys=False, width=1000)
    text = re.sub(r"defaultMode: (\d+)", lambda mode: f"defaultMode: {int(mode[1]):04o}", text)
    lines = []
    for line in text.splitlines():
        comment = COMMENTS.get(line.strip())
        lines.append(" " * indent + line + (f"  # {comment}" if comment else ""))
    return "\n".join(lines) + "\n"


def component_patches():
    """File name to content."""
    container, volumes = sidecar()
    files = {}
    for kind, version in KINDS.items():
        spec = {"template": {"spec": {"initContainers": [container], "volumes": volumes}}}
        if kind == "CronJob":
            spec = {"jobTemplate": {"spec": spec}}
        patch = {"apiVersion": version, "kind": kind, "metadata": {"name": "any"}, "spec": spec}
        files[f"{kind.lower()}.yaml"] = "# Made from charts/sf-token-proxy-lib by `UPDATE=1 make charts`.\n" + as_yaml(patch)
    return files


SNIPPET = re.compile(r"(<!-- snippet sidecar -->\n)(.*?)(<!-- end -->)", re.S)


def snippet():
    """With the indentation that it has in a Deployment, so that it can be pasted."""
    container, volumes = sidecar()
    return "```yaml\n" + as_yaml({"initContainers": [container], "volumes": volumes}, indent=6) + "```\n"


def snippet_in_docs():
    found = SNIPPET.search(DOCS.read_text())
    assert found, "docs/kubernetes.md has no snippet"
    return found[2]


def readme(chart):
    """The chart's README with its tables made anew, in the copy; and the text as it is."""
    path = work() / chart / "README.md"
    path.write_text((ROOT / "charts" / chart / "README.md").read_text())
    before = path.read_text()
    run("node", TOOLS / "node_modules/@bitnami/readme-generator-for-helm/bin/index.js", "--readme", path, "--values", work() / chart / "values.yaml")
    return before, path.read_text()
