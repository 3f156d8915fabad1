"""A running container's cgroup, of whichever version this machine has.

Owns: nothing. Units: bytes, seconds. Fails with: OSError once the container is gone.
"""

import contextlib
import pathlib

ROOT = pathlib.Path("/sys/fs/cgroup")


class Cgroup:
    def __init__(self, pid):
        lines = [line.split(":", 2) for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        paths = {name: path for _, names, path in lines for name in names.split(",")}
        self.second = "memory" not in paths
        self.memory = self.cpu = ROOT / paths[""].lstrip("/")
        if not self.second:
            self.memory, self.cpu = ROOT / "memory" / paths["memory"].lstrip("/"), ROOT / "cpuacct" / paths["cpuacct"].lstrip("/")

    def read(self, second, first):
        return (self.memory / (second if self.second else first)).read_text()

    def peak(self):
        return int(self.read("memory.peak", "memory.max_usage_in_bytes"))

    def limit(self):
        return int(self.read("memory.max", "memory.limit_in_bytes"))

    def anonymous(self):
        stat = dict(line.split() for line in self.read("memory.stat", "memory.stat").splitlines())
        return int(stat["anon" if self.second else "total_rss"])

    def cpu_seconds(self):
        if self.second:
            return int(dict(line.split() for line in (self.cpu / "cpu.stat").read_text().splitlines())["usage_usec"]) / 1e6
        return int((self.cpu / "cpuacct.usage").read_text()) / 1e9

    def killed_for_memory(self):
        """Whether the kernel has ended a process of it for the limit; False when it is gone already."""
        with contextlib.suppress(OSError, ValueError):
            events = dict(line.split() for line in self.read("memory.events", "memory.oom_control").splitlines())
            return int(events.get("oom_kill", 0)) > 0
        return False
