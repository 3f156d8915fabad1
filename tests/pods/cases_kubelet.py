"""The stand-in itself: what it copies of the kubelet has to be so, or the other tests prove nothing."""

from cases import case, check
from kubelet import Cluster
from spec import Refused
from world import Tools, TOKEN

# So that busybox, as PID 1, ends by SIGTERM.
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


def box(name, script, **more):
    return {"name": name, "image": Tools.box_image, "command": ["/busybox", "sh", "-c", script]} | more


def sidecar(name, script, **more):
    return box(name, script, restartPolicy="Always", **more)


def pod_of(w, kind="Pod", objects=(), labels=None, **spec):
    document = {"kind": kind, "metadata": {"name": "stand-in", "labels": labels or {}}, "spec": spec}
    return w.run(document, Cluster([document, *objects]))


def secret(**data):
    return {"kind": "Secret", "metadata": {"name": "s"}, "stringData": data}


def config_map(**data):
    return {"kind": "ConfigMap", "metadata": {"name": "m"}, "data": data}


def refuses(what, make):
    try:
        made = make()
    except Refused as refusal:
        check(what in str(refusal), f"refused, but with {refusal}")
        return
    made.start()
    made.wait("it is refused", lambda: made.refused, 10) if not made.refused else None


@case
def the_stand_in_refuses_what_it_does_not_know(w):
    for what, change in (
        ("hostNetwork", {"hostNetwork": True}),
        ("resizePolicy", {"containers": [box("a", SLEEP, resizePolicy=[])]}),
        ("grpc", {"containers": [box("a", SLEEP, livenessProbe={"grpc": {"port": 1}})]}),
        ("subPathExpr", {"containers": [box("a", SLEEP, volumeMounts=[{"name": "v", "mountPath": "/v", "subPathExpr": "$(X)"}])]}),
        ("hostPath", {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
        ("volumes[0].secret.mode", {"volumes": [{"name": "v", "secret": {"secretName": "s", "mode": 1}}]}),
        ("restartPolicy", {"initContainers": [box("i", "true", restartPolicy="Never")]}),
        ("has no probes", {"initContainers": [box("i", "true", startupProbe={"exec": {"command": ["/busybox"]}})]}),
        ("two containers", {"initContainers": [box("a", "true")]}),
        ("Secret s does not exist", {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
    ):
        refuses(what, lambda: pod_of(w, **({"containers": [box("a", SLEEP)]} | change)))
    check(not [pod for pod in w.pods if pod.made], "something was started")


@case
def init_containers_run_in_order_and_a_sidecars_startup_probe_holds_what_follows(w):
    log = [{"name": "log", "mountPath": "/log"}]
    probe = {"exec": {"command": ["/busybox", "test", "-e", "/log/up"]}, "periodSeconds": 1, "failureThreshold": 30}
    pod = pod_of(
        w, volumes=[{"name": "log", "emptyDir": {}}], terminationGracePeriodSeconds=5,
        initContainers=[
            box("first", "sleep 0.3; echo first >> /log/order", volumeMounts=log),
            sidecar("side", f"echo side >> /log/order; sleep 1.5; echo up >> /log/order; touch /log/up; {SLEEP}", volumeMounts=log, startupProbe=probe),
            box("second", "echo second >> /log/order", volumeMounts=log),
        ],
        containers=[box("app", f"echo app >> /log/order; {SLEEP}", volumeMounts=log)],
    ).start().wait_ready()
    order = pod.volumes["log"].folder / "order"
    w.eventually("the app has begun", lambda: "app" in order.read_text())
    check(order.read_text().split() == ["first", "side", "up", "second", "app"], order.read_text())


@case
def an_init_container_that_fails_keeps_the_apps_from_starting(w):
    pod = pod_of(w, restartPolicy="Never", initContainers=[box("bad", "echo it is broken; exit 3", terminationMessagePolicy="FallbackToLogsOnError")], containers=[box("app", SLEEP)]).start()
    pod.wait("it has failed", lambda: pod["bad"].done.is_set(), 90)
    check(pod["bad"].now.exit_code == 3 and pod["bad"].now.message == "it is broken\n", pod["bad"].now.message)
    pod.thread.join(5)
    check(not pod["app"].instances, "the app was started")


@case
def all_hooks_run_at_once_and_sidecars_end_last_in_reverse_order_within_one_grace_period(w):
    log = [{"name": "log", "mountPath": "/log"}]
    say = lambda name, seconds: f"trap 'sleep {seconds}; echo {name} >> /log/ends; exit 0' TERM; while :; do sleep 0.05; done"  # noqa: E731
    hook = lambda name: {"preStop": {"exec": {"command": ["/busybox", "sh", "-c", f"echo {name} >> /log/hooks; sleep 1"]}}}  # noqa: E731
    pod = pod_of(
        w, volumes=[{"name": "log", "emptyDir": {}}], terminationGracePeriodSeconds=20,
        initContainers=[sidecar(name, say(name, 0.1), volumeMounts=log, lifecycle=hook(name)) for name in ("one", "two")],
        containers=[box("app", say("app", 2), volumeMounts=log, lifecycle=hook("app"))],
    ).start().wait_ready()
    took = pod.delete()
    folder = pod.volumes["log"].folder
    check(sorted((folder / "hooks").read_text().split()) == ["app", "one", "two"], "the hooks")
    check((folder / "ends").read_text().split() == ["app", "two", "one"], (folder / "ends").read_text())
    check(pod["two"].term_at >= pod["app"].now.finished_at and pod["one"].term_at >= pod["two"].now.finished_at, "too early")
    check(3 < took < 15 and not any("SIGKILL" in event for event in pod.events), f"{took:.1f} s: {pod.events}")


@case
def what_does_not_end_is_killed_when_the_grace_is_over_and_a_sidecar_has_two_seconds_at_least(w):
    deaf = "trap '' TERM; while :; do sleep 0.1; done"
    slow = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.05; done"
    pod = pod_of(w, terminationGracePeriodSeconds=2, initContainers=[sidecar("side", slow)], containers=[box("app", deaf)]).start().wait_ready()
    pod.delete()
    check(pod["app"].now.exit_code == 137, f"the app's exit code: {pod['app'].now.exit_code}")
    check(pod["app"].now.finished_at - pod["app"].term_at > 1.9, "the app had not its grace")
    check(pod["side"].now.exit_code == 0, f"the sidecar's exit code: {pod['side'].now.exit_code}")


@case
def a_crash_is_restarted_at_once_and_then_only_after_ten_seconds(w):
    pod = pod_of(w, containers=[box("app", "sleep 0.2; exit 7")]).start()
    pod.wait("three instances", lambda: len(pod["app"].instances) >= 3, 90)
    one, two, three = pod["app"].instances[:3]
    check(two.started_at - one.finished_at < 6, "the first restart was late")
    check(three.started_at - two.finished_at >= 10, "the second restart was early")
    check(one.exit_code == 7 and one.reason == "Error", one.reason)


@case
def probes_come_to_the_pods_address_and_know_their_thresholds(w):
    server = "echo ok > /w/i; exec /busybox httpd -f -p {} -h /w"
    probe = {"httpGet": {"path": "/i", "port": "web"}, "periodSeconds": 1}
    container = lambda name, listen, port: box(  # noqa: E731
        name, server.format(f"{listen}:{port}"), ports=[{"name": "web", "containerPort": port}], readinessProbe=probe, volumeMounts=[{"name": "w", "mountPath": "/w"}]
    )
    pod = pod_of(w, volumes=[{"name": "w", "emptyDir": {}}], containers=[container("open", "0.0.0.0", 8091), container("closed", "127.0.0.1", 8092)], terminationGracePeriodSeconds=1).start()
    pod.wait("the open one is ready", pod["open"].ready.is_set, 90)
    failed = lambda: sum("closed: readiness probe failed" in event for event in pod.events)  # noqa: E731
    pod.wait("the closed one is not", lambda: failed() >= 5, 90)
    check(not pod["closed"].ready.is_set(), "a listener on loopback passes a probe")
    check(pod["closed"].restarts == 0, "a readiness probe restarts nothing")


@case
def volumes_have_the_kubelets_layout_and_a_subpath_never_changes(w):
    mounts = [
        {"name": "secret", "mountPath": "/s", "readOnly": True}, {"name": "secret", "mountPath": "/fixed", "subPath": "a", "readOnly": True},
        {"name": "all", "mountPath": "/all", "readOnly": True}, {"name": "memory", "mountPath": "/memory"},
    ]
    volumes = [
        {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "all", "projected": {"sources": [
            {"secret": {"name": "s", "items": [{"key": "a", "path": "deep/a", "mode": 0o444}]}}, {"configMap": {"name": "m"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
    ]
    pod = pod_of(
        w, objects=[secret(a="one", b="x"), config_map(c="conf")], labels={"app": "shop"}, volumes=volumes, securityContext={"fsGroup": 4000, "runAsUser": 5000, "runAsNonRoot": True},
        containers=[box("app", SLEEP, volumeMounts=mounts)], terminationGracePeriodSeconds=1,
    ).start().wait_ready()
    read = lambda script: pod["app"].exec("/busybox", "sh", "-c", script).stdout.strip()  # noqa: E731
    check(read("cat /s/a /fixed; cat /all/deep/a /all/c; cat /all/labels") == 'oneoneoneconfapp="shop"', read("cat /s/a /fixed; cat /all/deep/a /all/c; cat /all/labels"))
    check(read("readlink /s/a") == "..data/a" and read("readlink /s/..data").startswith(".."), read("ls -la /s"))
    check(read("stat -Lc '%a %u %g' /s/a") == "440 0 4000", read("stat -Lc '%a %u %g' /s/a"))
    check(read("id -u; id -G").split() == ["5000", "0", "4000"], read("id"))
    check(pod["app"].exec("/busybox", "sh", "-c", "dd if=/dev/zero of=/memory/f bs=1M count=3", check=False).returncode != 0, "a tmpfs has no limit")
    before = read("readlink /s/..data")
    pod.cluster.secrets["s"] = {"a": b"two"}
    check(pod.sync() == 2 and pod.sync() == 0, "the volumes that changed")
    check(read("cat /s/a /all/deep/a") == "twotwo" and read("cat /fixed") == "one", read("cat /s/a /fixed"))
    check(read("readlink /s/..data") != before and read("ls /s") == "a", read("ls -la /s"))


@case
def the_environment_is_kubernetes(w):
    objects = [secret(a="A"), config_map(c="C"), {"kind": "Service", "metadata": {"name": "my-db"}, "spec": {"ports": [{"name": "sql", "port": 5432}]}}]
    env = [
        {"name": "PLAIN", "value": "1"}, {"name": "BOTH", "value": "$(PLAIN)-$(SEC)-$(NONE)-$$(PLAIN)"},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}, {"name": "C_c", "value": "over"},
        {"name": "NOT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": True}}},
    ]
    pod = pod_of(
        w, objects=objects, restartPolicy="Never",
        containers=[box("app", "env; echo args=$0", args=["$(PLAIN)x"], env=env, envFrom=[{"secretRef": {"name": "s"}, "prefix": "SEC_"}, {"configMapRef": {"name": "m"}, "prefix": "C_"}], resources={"limits": {"memory": "32Mi"}})],
    ).start().wait_over(120)
    said = dict(line.split("=", 1) for line in pod["app"].log().splitlines())
    wanted = {
        "PLAIN": "1", "BOTH": "1-$(SEC)-$(NONE)-$(PLAIN)", "S": "A", "IP": "10.244.0.7", "MEM": "32", "SEC_a": "A", "C_c": "over", "args": "1x",
        "MY_DB_SERVICE_HOST": "10.96.0.10", "MY_DB_PORT": "tcp://10.96.0.10:5432", "MY_DB_SERVICE_PORT_SQL": "5432", "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    }
    check({name: said.get(name) for name in wanted} == wanted and "NOT" not in said, said)


@case
def a_termination_message_is_the_file_or_the_end_of_the_log_of_a_failure(w):
    many = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; "
    policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    pod = pod_of(
        w, restartPolicy="Never",
        containers=[box("file", "echo from the file > /dev/termination-log; exit 1", **policy), box("log", many + "exit 1", **policy), box("good", many, **policy), box("default", many + "exit 1")],
    ).start().wait_over(120)
    messages = {container.name: container.now.message for container in pod.apps}
    check(messages["file"] == "from the file\n" and messages["good"] == messages["default"] == "", messages)
    check(messages["log"].splitlines() == [f"line {n}" for n in range(120, 200)], messages["log"][:100])


@case
def a_container_over_its_memory_is_told_as_killed_for_it(w):
    pod = pod_of(w, restartPolicy="Never", containers=[box("app", "exec /busybox tail -c 60m /dev/zero", resources={"limits": {"memory": "20Mi"}}), box("small", "true")]).start().wait_over(120)
    check(pod["app"].now.reason == "OOMKilled", f"{pod['app'].now.reason} {pod['app'].now.exit_code}")
    check(pod["small"].now.reason == "Completed" and pod.phase() == "Failed", pod.phase())


@case
def the_security_context_is_what_the_container_runs_with(w):
    restricted = {
        "runAsNonRoot": True, "runAsUser": 6000, "runAsGroup": 6001, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod = pod_of(w, restartPolicy="Never", containers=[box("app", "id -u; id -g; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/1/status; touch /x 2>&1; nproc", securityContext=restricted)]).start().wait_over(120)
    said = pod["app"].log().split()
    check(said[:2] == ["6000", "6001"] and "Read-only" in said, said)
    check(dict(zip(said[2::2], said[3::2])) | {"CapBnd:": "0" * 16, "NoNewPrivs:": "1", "Seccomp:": "2"} == dict(zip(said[2::2], said[3::2])), said)
    root = pod_of(w, containers=[box("app", SLEEP, securityContext={"runAsNonRoot": True, "runAsUser": 0})]).start()
    root.thread.join(10)
    check(root.refused and "run as root" in root.refused, f"root is let in: {root.refused}")


@case
def the_pod_of_a_job_whose_app_fails_has_failed(w):
    document = {"kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "initContainers": [sidecar("side", SLEEP)], "containers": [box("app", "exit 5")]}}}}
    pod = w.run(document, Cluster([document])).start().wait_over(120)
    check(pod.phase() == "Failed" and pod["app"].now.exit_code == 5 and pod["side"].now.exit_code == 0, pod.describe())


@case
def after_a_pod_nothing_is_left(w):
    from podman import podman, run

    pod = pod_of(w, volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}], containers=[box("app", SLEEP)]).start().wait_ready()
    check(pod.id in podman("ps", "-a", "--format", "{{.Names}}"), "the search is blind")
    pod.remove()
    check(pod.id not in podman("ps", "-a", "--format", "{{.Names}}"), "a container is left")
    check(str(pod.scratch) not in run("cat", "/proc/mounts").stdout, "a mount is left")
    check(not TOKEN.search(str(pod.events)) and all(not container.thread.is_alive() for container in pod.containers), "a thread is left")
