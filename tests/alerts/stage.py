"""What the live test consists of: practice orgs, proxies, steady callers, a Prometheus with a past, and questions to it.

Owns: the processes, each ended by its own id, and the callers' threads. Only the standard library and PyYAML.
Fails with: RuntimeError and what did not come up.
"""

import collections
import contextlib
import http.client
import json
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "clients"))

from harness import end, start_org, started  # noqa: E402  the path comes first

NAMESPACE = "live"
# What every job's name begins with; the rules know the proxies by it.
JOB = "sf-token-proxy-"
# Of the recorded series, which the past is written in.
REQUESTS = "namespace_job_org:sf_token_proxy_requests:rate5m"
ERRORS = "namespace_job_org:sf_token_proxy_request_errors:rate5m"


def fetch(url, method="GET", body=None):
    """Patient: on a machine that is busy an answer may take long, and no answer is what is tested here."""
    # No proxy of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, method=method, data=body), timeout=60) as answer:
        return answer.read()


# Each is given out once: what has it may not listen yet.
CANDIDATES = iter(random.sample(range(20000, 32000), 12000))


def free_ports(count):
    """Ports that were free a moment ago; a restarted proxy has to be found where it was. Below those that the system gives to outgoing
    connections, which would take one in between."""
    with contextlib.ExitStack() as held:
        found = []
        while len(found) < count:
            port = next(CANDIDATES)
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
        return found


class PracticeOrg:
    def __init__(self, binary, scratch):
        scratch.mkdir()
        self.process, self.summary = start_org(binary, scratch)
        self.control = self.summary["control"]

    def tell(self, what, **body):
        return json.loads(fetch(f"{self.control}/control/{what}", "POST", json.dumps(body).encode()))

    def settings(self, **more):
        """An org of a proxy's configuration."""
        jwt = self.summary["apps"]["jwt"]
        grant = {"client_id": jwt["client_id"], "username": jwt["username"], "private_key": f"file:{jwt['key_file']}"}
        return {"login_url": self.summary["apps"]["login_url"], "grant": {"jwt_bearer": grant}} | more

    def stop(self):
        end(self.process, 10)


class Proxy:
    """One process, with a port for each of its orgs in their order."""

    def __init__(self, binary, scratch, name, orgs, listeners=None, **more):
        scratch.mkdir()
        self.binary, self.scratch, self.name = binary, scratch, name
        self.admin, *ports = free_ports(1 + len(orgs))
        self.ports = dict(zip(orgs, ports))
        listeners = listeners or {}
        self.configuration = {
            "listeners": [{"address": f"127.0.0.1:{port}", "org": org} | listeners.get(org, {}) for org, port in self.ports.items()],
            "admin": {"address": f"127.0.0.1:{self.admin}"},
            "orgs": orgs,
            "log": {"level": "info", "format": "json"},
        } | more
        self.file = scratch / "proxy.yaml"
        self.process = None

    def write(self):
        self.file.write_text(json.dumps(self.configuration, indent=1))

    def start(self):
        self.write()

        def ready(printed):
            return '"listening"' in printed or None

        self.process, _ = started([self.binary, "run", "--config", self.file], "proxy", self.scratch, ready)

    def metrics(self):
        return fetch(f"http://127.0.0.1:{self.admin}/metrics").decode()

    def stop(self):
        if self.process:
            end(self.process, 10)


class Caller(threading.Thread):
    """Calls at a steady rate. `call(n)` gives method, path, headers and body of the n-th."""

    def __init__(self, port, rate, call):
        super().__init__(daemon=True)
        self.port, self.rate, self.call = port, rate, call
        self.statuses = collections.Counter()
        self.stopped = threading.Event()

    def run(self):
        connection, due = None, time.monotonic()
        for n in range(sys.maxsize):
            if self.stopped.wait(max(0.0, due - time.monotonic())):
                break
            # A call that waited for a token is not made up for.
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            method, path, headers, body = self.call(n)
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.statuses[type(error).__name__] += 1
                if connection:
                    connection.close()
                connection = None

    def stop(self):
        self.stopped.set()


class Prometheus:
    """Debian's, on a free port, with a past and with targets that can be taken away."""

    def __init__(self, scratch, rules, interval):
        scratch.mkdir()
        self.scratch, self.targets_file, self.data = scratch, scratch / "targets.json", scratch / "data"
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.targets = []
        self.process = None
        config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "live", "file_sd_configs": [{"files": [str(self.targets_file)], "refresh_interval": "1s"}]}],
        }
        # JSON is YAML.
        (scratch / "prometheus.yml").write_text(json.dumps(config))

    def past(self, step, span, rates):
        """Writes the recorded rates of `(job, org)`: so many calls and errors a second, for the `span` before now."""
        text = self.scratch / "past.openmetrics"
        until = time.time()
        with open(text, "w") as out:
            for name, which in ((REQUESTS, 0), (ERRORS, 1)):
                out.write(f"# TYPE {name} gauge\n")
                for (job, org), rate in rates.items():
                    at = until - span
                    while at < until:
                        out.write(f'{name}{{namespace="{NAMESPACE}",job="{job}",org="{org}"}} {rate[which]} {at:.3f}\n')
                        at += step
            out.write("# EOF\n")
        # The text is read once for each block, so few long ones.
        command = ["promtool", "tsdb", "create-blocks-from", "--max-block-duration=162h", "openmetrics", text, self.data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"the past was not taken: {done.stderr[-500:]}")

    def aim(self, targets):
        """Scrapes these (job, port) from now on."""
        groups = [{"targets": [f"127.0.0.1:{port}"], "labels": {"job": job, "namespace": NAMESPACE}} for job, port in targets]
        fresh = self.targets_file.with_suffix(".new")
        fresh.write_text(json.dumps(groups))
        # Taken whole or not at all.
        fresh.rename(self.targets_file)

    def start(self):
        command = [
            "prometheus", f"--config.file={self.scratch / 'prometheus.yml'}", f"--storage.tsdb.path={self.data}",
            "--storage.tsdb.retention.time=30d", f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with open(self.scratch / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                fetch(self.url + "/-/ready")
                return
            time.sleep(0.05)
        raise RuntimeError("Prometheus did not come up: " + (self.scratch / "log").read_text()[-500:])

    def ask(self, path, **parameters):
        query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
        return json.loads(fetch(f"{self.url}/api/v1/{path}{query}"))["data"]

    def firing(self):
        """What fires now: (alert, job, org) and its rendered annotations."""
        alerts = self.ask("alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("job", ""), alert["labels"].get("org", "")): alert
            for alert in alerts if alert["state"] == "firing"
        }

    def stop(self):
        if self.process:
            end(self.process, 20)
