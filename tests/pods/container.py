"""One container of a pod, as the kubelet runs it: created anew at each start, probed, restarted with back-off, stopped.

Owns: a thread for its life and one for each probe; they end with the container. Invariants: one instance runs at a time; no
probe but the startup probe runs before that has passed. Units: seconds. Fails with: nothing; what went wrong is an event of the pod.
Source: Kubernetes kuberuntime_container.go (hooks, grace of at least 2 s, termination message), prober/worker.go.
"""

import contextlib
import json
import signal
import threading
import time

from cgroup import Cgroup
from podman import Failed, exit_of, image_user, logs, run, start
from spec import Refused, expand, quantity

MINIMUM_GRACE = 2
BACK_OFF = (0, 10, 20, 40, 80, 160, 300)
# `FallbackToLogsOnError` takes so much of the end of the log.
MESSAGE_LINES, MESSAGE_BYTES, FILE_BYTES = 80, 2048, 4096


class Instance:
    """One start of a container, up to its end."""

    def __init__(self, name, process, message_file):
        self.name, self.process, self.message_file = name, process, message_file
        self.started_at, self.finished_at = time.monotonic(), None
        self.exit_code = self.reason = self.message = None
        self.over = threading.Event()

    def signal(self, number):
        if self.process.fd is not None and not self.over.is_set():
            try:
                signal.pidfd_send_signal(self.process.fd, number)
            except ProcessLookupError:
                pass  # over by itself


class Container:
    def __init__(self, pod, spec, kind):
        self.pod, self.spec, self.kind, self.name = pod, spec, kind, spec["name"]
        self.instances, self.thread = [], None
        # Running, its postStart hook and its startup probe passed; Ready; never to be started again.
        self.started, self.ready, self.done = threading.Event(), threading.Event(), threading.Event()
        self.hooked = threading.Event()
        self.stopping = threading.Event()
        self.term_at = None

    @property
    def image(self):
        return self.pod.images.get(self.spec["image"], self.spec["image"])

    @property
    def now(self):
        """The instance that runs, or ran last."""
        return self.instances[-1] if self.instances else None

    @property
    def restarts(self):
        return max(len(self.instances) - 1, 0)

    def begin(self):
        self.thread = threading.Thread(target=self.live, name=self.name, daemon=True)
        self.thread.start()

    def live(self):
        """Instance after instance, until the policy says that it was the last."""
        try:
            failures = 0
            while not self.stopping.is_set():
                if failures and self.stopping.wait(BACK_OFF[min(failures - 1, len(BACK_OFF) - 1)]):
                    break
                instance = self.run_once()
                failures += 1
                if not self.again(instance):
                    break
        except (Failed, Refused) as wrong:
            self.pod.event(self.name, f"cannot be started: {wrong}")
            self.pod.refused = str(wrong)
        finally:
            self.done.set()
            self.pod.changed()

    def again(self, instance):
        if self.stopping.is_set():
            return False
        if self.kind == "sidecar":
            return True
        if self.kind == "init" and instance.exit_code == 0:
            return False
        policy = self.pod.spec.get("restartPolicy", "Always")
        if self.kind == "init" and policy == "Always":
            policy = "OnFailure"
        return policy == "Always" or policy == "OnFailure" and instance.exit_code != 0

    def run_once(self):
        """One instance from its start to its end."""
        number = len(self.instances)
        name = f"{self.pod.id}-{self.name}-{number}"
        message_file = self.pod.scratch / f"{name}.message"
        message_file.touch()
        message_file.chmod(0o666)
        options, words = self.options(message_file)
        self.pod.made.append(name)
        instance = Instance(name, start(name, self.image, options, words, self.pod.scratch), message_file)
        self.instances.append(instance)
        if self.stopping.is_set():
            # Stopped while podman was making it.
            instance.signal(signal.SIGKILL)
        self.pod.event(self.name, "started" if number == 0 else f"started again (restart {number})")
        cgroup = None
        with contextlib.suppress(OSError):
            cgroup = Cgroup(instance.process.pid)
        watchers = [threading.Thread(target=self.watch, args=(instance,), daemon=True)]
        watchers[0].start()
        while not instance.process.ended(60):
            pass
        # At once, before podman takes the cgroup away.
        killed_for_memory = cgroup is not None and cgroup.killed_for_memory()
        instance.finished_at = time.monotonic()
        self.started.clear()
        self.ready.clear()
        instance.exit_code, out_of_memory = exit_of(name)
        out_of_memory |= killed_for_memory
        instance.reason = "OOMKilled" if out_of_memory else "Completed" if instance.exit_code == 0 else "Error"
        instance.message = self.message_of(instance)
        instance.over.set()
        instance.process.close()
        watchers[0].join(70)
        self.pod.event(self.name, f"ended: {instance.reason}, exit code {instance.exit_code}")
        self.pod.changed()
        return instance

    def message_of(self, instance):
        """What `kubectl describe` shows of the end of a container."""
        written = instance.message_file.read_bytes()[:FILE_BYTES].decode(errors="replace")
        if written or instance.exit_code == 0 or self.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return written
        tail = "".join(logs(instance.name, self.pod.scratch).splitlines(keepends=True)[-MESSAGE_LINES:])
        return tail.encode()[-MESSAGE_BYTES:].decode(errors="replace")

    # Hooks and probes

    def watch(self, instance):
        """The postStart hook, then the probes."""
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook and not self.handle(instance, hook, 120):
            if not instance.over.is_set():
                self.pod.event(self.name, "its postStart hook failed: killed")
                self.end(instance, self.pod.grace)
            return
        self.hooked.set()
        self.pod.changed()
        if (probe := self.spec.get("startupProbe")) and not self.probe(instance, "startup", probe, once=True):
            return
        self.started.set()
        threads = []
        for kind in ("liveness", "readiness"):
            if probe := self.spec.get(f"{kind}Probe"):
                threads.append(threading.Thread(target=self.probe, args=(instance, kind, probe), daemon=True))
                threads[-1].start()
        if not self.spec.get("readinessProbe"):
            self.ready.set()
        self.pod.changed()
        for thread in threads:
            thread.join()

    def probe(self, instance, kind, probe, once=False):
        """Asks until the instance is over, or until it has passed once; whether it has passed when it ended."""
        good = bad = 0
        wait = probe.get("initialDelaySeconds", 0)
        while not instance.over.wait(wait) and not self.stopping.is_set():
            wait = probe.get("periodSeconds", 10)
            asked = time.monotonic()
            if self.handle(instance, probe, probe.get("timeoutSeconds", 1)):
                good, bad = good + 1, 0
            else:
                good, bad = 0, bad + 1
                self.pod.event(self.name, f"{kind} probe failed ({bad})")
            wait = max(0.0, wait - (time.monotonic() - asked))
            if good >= probe.get("successThreshold", 1):
                if once:
                    return True
                if kind == "readiness":
                    self.ready.set()
            if bad >= probe.get("failureThreshold", 3) and not instance.over.is_set():
                if kind == "readiness":
                    self.ready.clear()
                elif not self.stopping.is_set():
                    self.pod.event(self.name, f"{kind} probe failed {bad} times: killed")
                    self.end(instance, probe.get("terminationGracePeriodSeconds", self.pod.grace))
                    return False
        return good > 0

    def handle(self, instance, handler, seconds):
        """A probe or a hook, done once; whether it was good."""
        try:
            if wanted := handler.get("exec"):
                return run("podman", "exec", instance.name, *wanted["command"], check=False, seconds=seconds).returncode == 0
            if wanted := handler.get("sleep"):
                instance.over.wait(wanted["seconds"])
                return True
            if wanted := handler.get("tcpSocket"):
                address = f"telnet://{self.host_of(wanted)}:{self.port(wanted['port'])}"
                return self.pod.network.inside("curl", "-s", "-m", seconds, address, check=False, seconds=seconds + 5).returncode in (0, 28)
            wanted = handler["httpGet"]
            url = f"{wanted.get('scheme', 'HTTP').lower()}://{self.host_of(wanted)}:{self.port(wanted['port'])}{wanted.get('path', '/')}"
            headers = [word for header in wanted.get("httpHeaders") or [] for word in ("-H", f"{header['name']}: {header['value']}")]
            asked = self.pod.network.inside(
                "curl", "-sgk", "-o", "/dev/null", "-m", seconds, "-A", "kube-probe/1.36", "-w", "%{http_code}", *headers, url, check=False, seconds=seconds + 5
            )
            return asked.stdout[:1] in ("2", "3")
        except Failed:
            return False

    def host_of(self, wanted):
        """The pod's address, as for the kubelet: never loopback."""
        host = wanted.get("host") or self.pod.addresses[0]
        return f"[{host}]" if ":" in host else host

    def port(self, wanted):
        if isinstance(wanted, int):
            return wanted
        for port in self.spec.get("ports") or []:
            if port.get("name") == wanted:
                return port["containerPort"]
        raise Refused(f"{self.name}: no port is named {wanted}")

    # Its end

    def stop(self, deadline, turn=None):
        """As the kubelet stops it: the preStop hook, its turn, SIGTERM, what is left of the grace period, SIGKILL."""
        self.stopping.set()
        instance = self.now
        if instance is None or instance.over.is_set():
            self.end_of_thread()
            return
        if hook := (self.spec.get("lifecycle") or {}).get("preStop"):
            if not self.handle(instance, hook, max(deadline - time.monotonic(), 0.001)):
                self.pod.event(self.name, "its preStop hook failed")
        if turn:
            turn(deadline)
        self.term(instance, max(deadline - time.monotonic(), MINIMUM_GRACE))
        self.end_of_thread()

    def end(self, instance, grace):
        """Killed while the pod goes on: it will be restarted."""
        deadline = time.monotonic() + grace
        if hook := (self.spec.get("lifecycle") or {}).get("preStop"):
            self.handle(instance, hook, grace)
        self.term(instance, max(deadline - time.monotonic(), MINIMUM_GRACE))

    def term(self, instance, seconds):
        self.term_at = time.monotonic()
        self.pod.event(self.name, "SIGTERM")
        instance.signal(signal.SIGTERM)
        if not instance.over.wait(seconds):
            self.pod.event(self.name, f"SIGKILL after {seconds:.1f} s")
            instance.signal(signal.SIGKILL)

    def end_of_thread(self):
        if self.thread:
            self.thread.join(30)

    def kill(self):
        """SIGKILL out of the blue, as the kernel or a person would."""
        self.now.signal(signal.SIGKILL)

    def log(self):
        """What all its instances have printed, the oldest first."""
        return "".join(logs(instance.name, self.pod.scratch) for instance in self.instances)

    def exec(self, *command, seconds=60, check=True):
        """A command in the running container."""
        return run("podman", "exec", self.now.name, *command, seconds=seconds, check=check)

    # What podman is told

    def options(self, message_file):
        pod, spec = self.pod, self.spec
        variables = pod.environment(self)
        options = ["--network", f"ns:{pod.network.path}", "--no-hosts", "--hostname", pod.hostname, "-v", f"{pod.hosts}:/etc/hosts:ro"]
        options += ["-v", f"{message_file}:{spec.get('terminationMessagePath', '/dev/termination-log')}"]
        if pod.trusted:
            options += ["-v", f"{pod.trusted}:/etc/ssl/certs/ca-certificates.crt:ro"]
        options += self.security()
        for name, value in variables.items():
            options += ["-e", f"{name}={value}"]
        if "workingDir" in spec:
            options += ["-w", spec["workingDir"]]
        limits, requests = ((spec.get("resources") or {}).get(part) or {} for part in ("limits", "requests"))
        if "memory" in limits:
            # No swap, as a kubelet gives none: what is over the limit is killed, also where the machine has some.
            options += [f"{option}={int(quantity(limits['memory']))}b" for option in ("--memory", "--memory-swap")]
        if "cpu" in limits:
            options += ["--cpus", quantity(limits["cpu"])]
        if cpu := requests.get("cpu", limits.get("cpu")):
            options += ["--cpu-shares", max(int(quantity(cpu) * 1024), 2)]
        for mount in spec.get("volumeMounts") or []:
            volume = pod.volumes.get(mount["name"])
            if volume is None:
                raise Refused(f"{self.name}: no volume is named {mount['name']}")
            options += ["-v", f"{volume.source(mount.get('subPath'))}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")]
        if pod.service_account:
            options += ["-v", f"{pod.service_account.source(None)}:/var/run/secrets/kubernetes.io/serviceaccount:ro"]
        command = [expand(word, variables) for word in spec.get("command") or []]
        if command:
            options += ["--entrypoint", json.dumps(command)]
        return options, [expand(word, variables) for word in spec.get("args") or []]

    def security(self):
        pod, own = self.pod.spec.get("securityContext") or {}, self.spec.get("securityContext") or {}
        options, both = [], pod | own
        user = both.get("runAsUser")
        if both.get("runAsNonRoot"):
            effective = str(user) if user is not None else image_user(self.image).split(":")[0]
            if not effective.isdigit():
                raise Refused(f"{self.name}: container has runAsNonRoot and image has non-numeric user {effective!r}")
            if int(effective) == 0:
                raise Refused(f"{self.name}: container has runAsNonRoot and image will run as root")
        if user is not None:
            options += ["--user", f"{user}:{both.get('runAsGroup', 0)}"]
        for group in {*(pod.get("supplementalGroups") or []), *([pod["fsGroup"]] if "fsGroup" in pod else [])}:
            options += ["--group-add", group]
        if own.get("privileged"):
            raise Refused(f"{self.name}: privileged")
        if own.get("readOnlyRootFilesystem"):
            options += ["--read-only", "--read-only-tmpfs=false"]
        if own.get("allowPrivilegeEscalation") is False:
            options += ["--security-opt", "no-new-privileges"]
        capabilities = own.get("capabilities") or {}
        for verb in ("drop", "add"):
            for name in capabilities.get(verb) or []:
                options += [f"--cap-{verb}", name.lower()]
        # podman's own profile is the runtime's default.
        seccomp = (both.get("seccompProfile") or {"type": "Unconfined"})["type"]
        if seccomp == "Unconfined":
            options += ["--security-opt", "seccomp=unconfined"]
        elif seccomp != "RuntimeDefault":
            raise Refused(f"{self.name}: seccompProfile {seccomp}")
        return options
