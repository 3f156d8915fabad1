"""podman and the pod's network, by the system's tools; every call has an end.

Owns: nothing. Invariants: no image is ever pulled; a container is named by us and removed by its name.
Units: seconds. Fails with: `Failed`, with what the tool said.
"""

import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "CONTAINERS_CONF": str(HERE / "containers.conf")}


class Failed(RuntimeError):
    """A tool did not do what it was asked."""


def run(*command, check=True, seconds=60, **more):
    """A command to its end; its exit code, output and complaints."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=seconds, env=ENVIRONMENT, stdin=subprocess.DEVNULL, **more)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words[:6])} …: not done in {seconds} s") from None
    if check and done.returncode:
        raise Failed(f"{' '.join(words[:6])} …: exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    return done


def podman(*command, **more):
    """What podman printed."""
    return run("podman", *command, **more).stdout.strip()


class Process:
    """A container's first process, watched from outside without asking podman."""

    def __init__(self, container, pid):
        self.container, self.pid = container, pid
        try:
            self.fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.fd = None  # over already

    def ended(self, seconds):
        """Whether it has ended within so many seconds."""
        if self.fd is None:
            return True
        # Not select(): a run may have more than 1024 descriptors.
        import select

        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(max(seconds, 0) * 1000))

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def start(name, image, options, words, scratch):
    """A new running container."""
    pidfile = scratch / f"{name}.pid"
    log = ["--log-driver", "k8s-file", "--log-opt", f"path={scratch / name}.log"]
    # Its own folder: conmon writes a file "oom" where it stands.
    podman("run", "--detach", "--pull", "never", "--name", name, "--pidfile", pidfile, *log, *options, image, *words, cwd=scratch)
    return Process(name, int(pidfile.read_text()))


def exit_of(name):
    """The exit code of a container whose process has ended, and whether it was killed for its memory.

    The second is asked of the kernel's log, as the kubelet does: with the first version of cgroups podman does not see it.
    """
    code = int(podman("wait", "--interval", "20ms", name, seconds=60))
    identity, told = podman("inspect", "--format", "{{.Id}} {{.State.OOMKilled}}", name).split()
    if code != 137 or told == "true":
        return code, told == "true"
    log = run("dmesg", check=False).stdout.splitlines()
    return code, any("oom-kill:" in line and identity in line for line in log)


def logs(name, scratch):
    """All that a container has printed so far: the file itself is read, since asking podman is slow."""
    try:
        lines = (scratch / f"{name}.log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    # TIME STREAM F|P TEXT; P is a piece of a line.
    parts = [line.split(" ", 3) for line in lines]
    return "".join(part[3] + ("\n" if part[2] == "F" else "") for part in parts if len(part) == 4)


def remove(names):
    if names:
        run("podman", "rm", "--force", "--ignore", "--time", "0", *names, check=False)


def image_user(image):
    return podman("image", "inspect", "--format", "{{.Config.User}}", image)


class Network:
    """What a pod's containers share: loopback, and the pod's own addresses, of which nothing leads out.

    The addresses are on the loopback device, since a dummy one is not to be had everywhere: what listens on 127.0.0.1 or ::1 alone
    is not reached by them, and that is what counts.
    """

    def __init__(self, name, addresses):
        self.name, self.path, self.addresses = name, f"/run/netns/{name}", addresses
        run("ip", "netns", "add", name)
        try:
            run("ip", "-n", name, "link", "set", "lo", "up")
            for address in addresses:
                run("ip", "-n", name, "addr", "add", address + ("/128" if ":" in address else "/32"), "dev", "lo")
        except Failed:
            self.remove()
            raise

    def inside(self, *command, **more):
        """A command of this machine in the pod's network."""
        return run("nsenter", f"--net={self.path}", *command, **more)

    def remove(self):
        run("ip", "netns", "delete", self.name, check=False)
