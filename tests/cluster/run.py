#!/usr/bin/env python3
"""The charts in a real cluster: what the stand-in of tests/pods copies, by the original. Run by the workflow `nightly` in kind.

    tests/cluster/run.py --practice target/debug/sf-token-proxy --address 172.18.0.1

The practice org is a process of this machine. It answers on localhost alone, so a relay stands before it: on an address that pods can reach, with a
certificate for the name that a Service gives it. The namespaces enforce the Pod Security level "restricted".
Needs kubectl (its current context is the cluster), helm, openssl; the images of the charts' default names have to be in the cluster.
Owns: the org, the relay, a folder, and the namespaces and releases of the names below, which stay for whoever wants to look: the cluster is to be thrown away.
Units: seconds. Fails with: the property that does not hold, then what the cluster says of it, exit code 1.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
APP, INJECTED = "shop", "injected"
HOST = f"org.{APP}.svc.cluster.local"
URL = f"https://{HOST}"
CA_FILE = "/etc/sf-token-proxy-ca/ca.crt"
SECRET_FILE = "file:/var/run/secrets/sf-token-proxy/client-secret"


def run(*command, check=True, seconds=120, text=None):
    """A command to its end; what it printed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds, input=text, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command[:8]))} …: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def kubectl(*command, **more):
    return run("kubectl", *command, **more)


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def eventually(what, condition, seconds=120):
    """Until it is so; what it then was. A cluster's state is asked for, it cannot be waited for in one call."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if seen := condition():
            return seen
        time.sleep(1)
    raise AssertionError(f"{what}: not within {seconds} s")


# The world outside


class Org:
    """The practice org."""

    def __init__(self, binary, folder):
        summary, self.out = folder / "org.json", folder / "org.out"
        (folder / "org").mkdir()
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [binary, "demo", "--org-only", "--summary", summary], stdout=out, stderr=out, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder / "org")}
            )
        try:
            eventually("the practice org is up", lambda: summary.exists() or self.process.poll() is not None, 30)
            check(self.process.poll() is None, f"the practice org has ended: {self.out.read_text()[-500:]}")
            about = json.loads(summary.read_text())
        except BaseException:
            self.close()
            raise
        self.port = int(about["org"].rsplit(":", 1)[1])
        self.ca = about["ca_file"]
        client = about["apps"]["client_credentials"]
        self.client_id, self.secret = client["client_id"], pathlib.Path(client["secret_file"]).read_text()

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Relay:
    """Takes TLS for `host` on `address`, and passes on what is in it to the practice org. Bytes only: no header is changed."""

    def __init__(self, address, host, org, folder):
        self.org = org
        key, certificate = folder / "relay-key.pem", folder / "relay.pem"
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=practice relay CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", folder / "ca-key.pem", "-out", folder / "ca.pem",
        )  # fmt: skip
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=practice relay", "-keyout", key, "-out", folder / "relay.csr")
        (folder / "relay.ext").write_text(f"subjectAltName=DNS:{host}\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n")
        run(
            "openssl", "x509", "-req", "-in", folder / "relay.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca-key.pem", "-days", "2",
            "-extfile", folder / "relay.ext", "-out", certificate,
        )  # fmt: skip
        self.ca = (folder / "ca.pem").read_text()
        self.outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.outside.load_cert_chain(certificate, key)
        self.inside = ssl.create_default_context(cafile=org.ca)
        listener = socket.create_server((address, 0))
        self.port = listener.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        # One thread for all: a TLS connection must not be read and written by two at a time.
        self.thread = threading.Thread(target=self.serve, args=(listener,), daemon=True)
        self.thread.start()

    def serve(self, listener):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(asyncio.start_server(self.connect, sock=listener, ssl=self.outside))
        self.loop.run_forever()

    async def connect(self, reader, writer):
        """One connection, until either side ends it: the proxy opens another."""
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.org.port, ssl=self.inside, server_hostname="localhost")
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


async def copy(reader, writer):
    """Over TLS no side can be closed alone, so the end of what comes in is the end of the connection."""
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


# What its users put into the cluster


def namespace(name, **labels):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"} | labels}}


def config_map(where, name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": where}, "data": {key.replace("_", "."): text for key, text in data.items()}}


def secret(where, name, text):
    data = {"client-secret": base64.b64encode(text.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": where}, "data": data}


def org_config(org):
    grant = {"client_credentials": {"client_id": org.client_id, "client_secret": SECRET_FILE}}
    # The org calls itself localhost.
    return {"orgs": {"main": {"login_url": URL, "instance_url": URL, "grant": grant}}}


def objects(org, relay, address):
    """The org's name, and beside each app what the charts expect to be there."""
    by_hand = org_config(org) | {"admin": {"address": "*:9090"}, "upstream": {"ca_file": CA_FILE}}
    return [
        namespace(APP),
        namespace(INJECTED, **{"sf-token-proxy/injection": "enabled"}),
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "org", "namespace": APP},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": relay.port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "org-1", "namespace": APP, "labels": {"kubernetes.io/service-name": "org"}},
            "ports": [{"name": "https", "port": relay.port, "protocol": "TCP"}], "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        },
        config_map(APP, "org-ca", ca_crt=relay.ca),
        secret(APP, "salesforce", org.secret),
        config_map(INJECTED, "org-ca", ca_crt=relay.ca),
        # JSON is YAML.
        config_map(INJECTED, "sf-token-proxy-config", config_yaml=json.dumps(by_hand)),
        secret(INJECTED, "sf-token-proxy-credentials", org.secret),
    ]  # fmt: skip


def cluster_values():
    """The chart of what a cluster has once, without what needs the Prometheus operator."""
    return {"dashboard": {"enabled": True}, "admissionPolicy": {"enabled": True}, "sfTokenProxy": {"caBundle": {"configMap": "org-ca"}}}


def app_values(org):
    return {
        "fullnameOverride": "shop",
        "job": {"enabled": True},
        "deployment": {"args": ["serve"]},
        "sfTokenProxy": {"caBundle": {"configMap": "org-ca"}, "config": org_config(org)},
    }


def plain_pod(name, labels):
    """Of somebody who knows nothing of a sidecar."""
    security = {
        "runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": INJECTED, "labels": labels},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False,
            "containers": [{"name": "app", "image": "my-app:1.0", "args": ["import"], "securityContext": security}],
        },
    }  # fmt: skip


def said(log):
    """What the app has said; tests/pods/world.py reads it as this does."""
    found = {}
    for line in log.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found |= json.loads(line)
    return found


def all_well(log):
    found = said(log)
    check(found.get("first", {}).get("ok"), f"the very first call failed: {found}")
    check(found.get("summary", {}).get("failed") == 0, f"calls failed: {found}")
    return found["summary"]


def pods(where, selector):
    return [pod for pod in json.loads(kubectl("-n", where, "get", "pods", "-l", selector, "-o", "json"))["items"] if "deletionTimestamp" not in pod["metadata"]]


# What has to hold


def the_apps_are_ready_and_their_calls_work():
    kubectl("-n", APP, "rollout", "status", "deployment/shop", "--timeout=180s", seconds=200)
    for pod in pods(APP, "app.kubernetes.io/component=web"):
        log = lambda pod=pod: said(kubectl("-n", APP, "logs", pod["metadata"]["name"], "-c", "app"))  # noqa: E731
        eventually("the app calls", lambda: log().get("progress", {}).get("calls", 0) > 20, 60)
        found = log()
        check(found["first"]["ok"] and found["progress"]["failed"] == 0, f"calls failed: {found}")
        sidecar = pod["status"]["initContainerStatuses"][0]
        check(sidecar["name"] == "sf-token-proxy" and sidecar["restartCount"] == 0, f"the sidecar: {sidecar}")


def a_deleted_pods_calls_work_to_its_end():
    name = pods(APP, "app.kubernetes.io/component=web")[0]["metadata"]["name"]
    # Begun before the end, since the log goes with the pod.
    with subprocess.Popen(["kubectl", "-n", APP, "logs", "--follow", name, "-c", "app"], stdout=subprocess.PIPE, text=True) as follower:
        check(follower.stdout.readline(), "the app has no log")
        begun = time.monotonic()
        log = []
        reader = threading.Thread(target=lambda: log.append(follower.stdout.read()), daemon=True)
        reader.start()
        kubectl("-n", APP, "delete", "pod", name, "--wait=true", "--timeout=60s", seconds=90)
        took = time.monotonic() - begun
        reader.join(30)
        follower.terminate()
    check(log, "the log does not end")
    summary = said(log[0]).get("summary") or {}
    check(summary.get("failed") == 0 and summary.get("after_term", 0) >= 10, f"calls failed, or none came after SIGTERM: {summary}")
    check(took < 20, f"the end took {took:.0f} s of 30")


def the_job_and_the_cronjobs_template_end_by_themselves():
    kubectl("-n", APP, "create", "job", "now", "--from=cronjob/shop")
    for job in ("shop-1", "now"):
        kubectl("-n", APP, "wait", "--for=condition=Complete", f"job/{job}", "--timeout=180s", seconds=200)
        all_well(kubectl("-n", APP, "logs", f"job/{job}", "-c", "app"))


def helm_test_passes():
    run("helm", "test", "shop", "--namespace", APP, "--timeout", "120s", seconds=150)


def the_admission_policy_puts_the_sidecar_into_labelled_pods_alone():
    def made(name, labels):
        kubectl("apply", "-f", "-", text=json.dumps(plain_pod(name, labels)))
        return json.loads(kubectl("-n", INJECTED, "get", "pod", name, "-o", "json"))["spec"].get("initContainers", [])

    # The API server takes some seconds to learn of a policy.
    tries = iter(range(100))
    label = {"sf-token-proxy/inject": "true"}
    name = eventually("a labelled pod has the sidecar", lambda: (name := f"with-{next(tries)}") and [one["name"] for one in made(name, label)] == ["sf-token-proxy"] and name, 60)
    check(made("without", {}) == [], "a pod without the label has a sidecar")
    kubectl("-n", INJECTED, "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=120s", seconds=150)
    all_well(kubectl("-n", INJECTED, "logs", name, "-c", "app"))


CHECKS = [
    the_apps_are_ready_and_their_calls_work,
    the_job_and_the_cronjobs_template_end_by_themselves,
    helm_test_passes,
    a_deleted_pods_calls_work_to_its_end,
    the_admission_policy_puts_the_sidecar_into_labelled_pods_alone,
]


def install(org, relay, address, folder):
    charts = folder / "charts"
    # A copy: helm puts the library into the charts' folders.
    shutil.copytree(ROOT / "charts", charts)
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects(org, relay, address)}))
    for release, chart, where, values in (("cluster", "sf-token-proxy", "default", cluster_values()), ("shop", "example", APP, app_values(org))):
        run("helm", "dependency", "build", "--skip-refresh", charts / chart)
        file = folder / f"{release}.json"
        file.write_text(json.dumps(values))
        run("helm", "install", release, charts / chart, "--namespace", where, "--values", file, seconds=180)


def look_around():
    """For whoever reads a failure. Secrets are not shown."""
    for command in (
        ["get", "pods", "--all-namespaces", "-o", "wide"],
        *(["-n", where, *what] for where in (APP, INJECTED) for what in (["describe", "pods"], ["get", "events", "--sort-by=.lastTimestamp"])),
        *(["-n", where, "logs", "-l", selector, "--all-containers", "--prefix", "--tail=40"] for where, selector in ((APP, "app.kubernetes.io/name=example"), (INJECTED, "sf-token-proxy/inject"))),
    ):
        print(f"--- kubectl {' '.join(command)}\n{kubectl(*command, check=False)[-20000:]}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--practice", type=pathlib.Path, required=True, help="the binary with the practice org")
    parser.add_argument("--address", required=True, help="an IPv4 address of this machine that pods can reach")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        org = stack.enter_context(contextlib.closing(Org(given.practice.resolve(), folder)))
        relay = stack.enter_context(contextlib.closing(Relay(given.address, HOST, org, folder)))
        try:
            install(org, relay, given.address, folder)
            for one in CHECKS:
                begun = time.monotonic()
                title = one.__name__.replace("_", " ")
                try:
                    one()
                    print(f"cluster: ok: {title} ({time.monotonic() - begun:.0f} s)", flush=True)
                except (AssertionError, KeyError, IndexError, subprocess.TimeoutExpired) as problem:
                    failed += 1
                    print(f"cluster: FAILED: {title}: {problem!r}", file=sys.stderr, flush=True)
        except (AssertionError, subprocess.TimeoutExpired) as problem:
            failed += 1
            print(f"cluster: FAILED: installing: {problem}", file=sys.stderr)
        if failed:
            look_around()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
