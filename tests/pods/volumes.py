"""Volumes as the kubelet makes them: folders of this machine that containers mount.

Secrets, ConfigMaps, projected and downward API volumes have the layout of the kubelet's AtomicWriter: a stamped folder, `..data` that
points at it, and a link for each file; an update is a new stamped folder and one rename. A subPath is resolved when the container
starts and never again.
Owns: the folders, and the tmpfs mounted for an emptyDir. Invariants: a reader sees the old files or the new, never some of each.
Units: modes are octal numbers; sizes bytes. Fails with: `Refused` for what is missing and not optional.
Source: Kubernetes pkg/volume/util/atomic_writer.go, pkg/volume/volume_linux.go (fsGroup).
"""

import os
import shutil
import stat
import time

from podman import run
from spec import Refused, quantity

FILE_MODE = 0o644


class Volume:
    """One volume of a pod: `folder` is what containers mount."""

    def __init__(self, folder, fs_group):
        self.folder, self.fs_group = folder, fs_group
        folder.mkdir(parents=True)
        if fs_group is not None:
            os.chown(folder, 0, fs_group)
            os.chmod(folder, 0o2775)

    def source(self, sub_path):
        """What is mounted: the volume, or what its subPath is now."""
        if not sub_path:
            return self.folder
        if sub_path.startswith("/") or ".." in sub_path.split("/"):
            raise Refused(f"subPath {sub_path}: outside the volume")
        return (self.folder / sub_path).resolve()

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class EmptyDir(Volume):
    """A folder that all may write; with a size (or for `medium: Memory`) a tmpfs. A kubelet would evict the pod for what is too much
    on disk; here the write fails."""

    def __init__(self, folder, fs_group, wanted):
        super().__init__(folder, fs_group)
        medium, size = wanted.get("medium") or "", wanted.get("sizeLimit")
        if medium not in ("", "Memory"):
            raise Refused(f"emptyDir: medium {medium}")
        self.mounted = bool(medium or size)
        if self.mounted:
            options = ["-o", f"size={int(quantity(size))}"] if size else []
            run("mount", "-t", "tmpfs", *options, "tmpfs", folder)
        os.chmod(folder, 0o777 | (0 if fs_group is None else stat.S_ISGID))
        if fs_group is not None:
            os.chown(folder, 0, fs_group)

    def source(self, sub_path):
        source = super().source(sub_path)
        source.mkdir(parents=True, exist_ok=True)
        return source

    def remove(self):
        if self.mounted:
            run("umount", "--lazy", self.folder, check=False)
        super().remove()


class Written(Volume):
    """A volume whose files the kubelet writes; `files` gives them: path to (content, mode)."""

    def __init__(self, folder, fs_group, files):
        super().__init__(folder, fs_group)
        self.files, self.now = files, None
        self.update()

    def update(self):
        """Brings the volume up to date, as the kubelet does within a minute or so; whether anything has changed."""
        wanted = self.files()
        if wanted == self.now:
            return False
        stamp = self.folder / f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{time.time_ns() % 10**10}"
        stamp.mkdir(mode=0o755)
        self.own(stamp, 0o755)
        for path, (content, mode) in wanted.items():
            if path.startswith("/") or ".." in path.split("/"):
                raise Refused(f"a file outside its volume: {path}")
            file = stamp / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            self.own(file, mode)
        data, before = self.folder / "..data", None
        if data.is_symlink():
            before = self.folder / os.readlink(data)
        new = self.folder / "..data_tmp"
        new.symlink_to(stamp.name)
        new.rename(data)
        tops = {path.split("/")[0] for path in wanted}
        for top in tops:
            if not (self.folder / top).is_symlink():
                (self.folder / top).symlink_to(f"..data/{top}")
        for gone in {path.split("/")[0] for path in self.now or {}} - tops:
            (self.folder / gone).unlink()
        if before:
            shutil.rmtree(before)
        self.now = wanted
        return True

    def own(self, path, mode):
        """What the kubelet does for fsGroup: the group owns it and may read it, whatever the mode says."""
        os.chmod(path, mode)
        if self.fs_group is not None:
            os.chown(path, 0, self.fs_group)
            os.chmod(path, mode | (stat.S_ISGID | 0o550 if path.is_dir() else 0o440))


def items_of(data, wanted, default_mode, what):
    """The files that a Secret's or ConfigMap's keys become; `data` is None where the object does not exist."""
    optional = wanted.get("optional")
    if data is None:
        if optional:
            return {}
        raise Refused(f"{what} does not exist, so the pod does not start")
    if not wanted.get("items"):
        return {key: (value, default_mode) for key, value in data.items()}
    files = {}
    for item in wanted["items"]:
        if item["key"] in data:
            files[item["path"]] = (data[item["key"]], item.get("mode", default_mode))
        elif not optional:
            raise Refused(f"{what} has no key {item['key']}, so the pod does not start")
    return files


def files_of(volume, cluster, downward):
    """A function that gives the files of a Secret, ConfigMap, downward API or projected volume; None for another kind.

    `cluster.secret(name)` and `.config_map(name)` give the data now, `downward(reference)` a text.
    """

    def of_source(kind, wanted, mode):
        if kind == "secret":
            name = wanted.get("secretName", wanted.get("name"))
            return items_of(cluster.secret(name), wanted, mode, f"Secret {name}")
        if kind == "configMap":
            return items_of(cluster.config_map(wanted["name"]), wanted, mode, f"ConfigMap {wanted['name']}")
        if kind == "downwardAPI":
            return {item["path"]: (downward(item).encode(), item.get("mode", mode)) for item in wanted["items"]}
        if kind == "serviceAccountToken":
            return {wanted["path"]: (b"practice.service-account.token", 0o600 if mode == FILE_MODE else mode)}
        raise Refused(f"volume {volume['name']}: {kind}")

    for kind in ("secret", "configMap", "downwardAPI"):
        if kind in volume:
            wanted = volume[kind]
            return lambda: of_source(kind, wanted, wanted.get("defaultMode", FILE_MODE))
    if "projected" in volume:
        wanted = volume["projected"]

        def projected():
            files = {}
            for source in wanted["sources"]:
                for kind, part in source.items():
                    files |= of_source(kind, part, wanted.get("defaultMode", FILE_MODE))
            return files

        return projected
    return None
