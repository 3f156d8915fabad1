#!/usr/bin/env python3
"""Looks into the image that tests/image/build.sh made, and runs it as a restricted pod would: `make image`.

Owns: one container at a time and one more image, both named image-…; removed in any case.
Fails with: every property that does not hold, one line each, and exit code 1.
"""

import json
import os
import pathlib
import re
import select
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
IMAGE = "localhost/sf-token-proxy:test"
PRACTICE = "localhost/sf-token-proxy-practice:test"
AGAIN = "localhost/image-again:test"
CONTAINER = f"image-check-{os.getpid()}"

MAX_BINARY = 8 * 1024 * 1024
# What the image may hold, and nothing else. The folders are those of x86-64 or of arm64.
FILES = [
    r"sf-token-proxy",
    r"lib64/ld-linux-x86-64\.so\.2|lib/ld-linux-aarch64\.so\.1",
    r"lib/(x86_64|aarch64)-linux-gnu/(libc\.so\.6|libm\.so\.6|libgcc_s\.so\.1)",
    r"etc/(passwd|group|nsswitch\.conf|os-release|ssl/certs/ca-certificates\.crt)",
    r"var/lib/dpkg/status\.d/(ca-certificates|libc6|libgcc-s1)",
    r"usr/share/doc/(ca-certificates|libc6|libgcc-s1)/copyright",
]
# A header that only the practice org sends.
PRACTICE_ONLY = b"x-practice-trailer"
# As strict as a pod of the level "restricted" with a read-only root; and nothing outside is reachable.
RESTRICTED = [
    "--pull=never", "--network=none", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all",
    "--security-opt=no-new-privileges", "--user=65532:65532", "--memory=64m",
]  # fmt: skip
# Any wait here is for something that takes well under a second.
PATIENCE = 30


def output(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stderr}")
    return done


def run(*args, image=IMAGE, options=()):
    """Exit code, stdout and stderr of a container that ends by itself."""
    done = output("podman", "run", "--rm", "--name", CONTAINER, *RESTRICTED, *options, image, *args, check=False)
    return done.returncode, done.stdout, done.stderr


class Image:
    """The image as it would lie in a registry: configuration, and the files of its layers."""

    def __init__(self, name, folder):
        self.folder = folder / "oci"
        output("skopeo", "copy", "--quiet", f"containers-storage:{name}", f"oci:{self.folder}:it")
        manifest = self.blob(json.loads((self.folder / "index.json").read_text())["manifests"][0]["digest"])
        manifest = json.loads(manifest.read_text())
        self.whole = json.loads(self.blob(manifest["config"]["digest"]).read_text())
        self.config = self.whole["config"]
        self.members, self.bytes = {}, {}
        for layer in manifest["layers"]:
            with tarfile.open(self.blob(layer["digest"])) as tar:
                for member in tar:
                    name = member.name.strip("/")
                    self.members[name] = member
                    if member.isreg():
                        self.bytes[name] = tar.extractfile(member).read()

    def blob(self, digest):
        return self.folder / "blobs" / digest.replace(":", "/")

    @property
    def binary(self):
        return self.bytes["sf-token-proxy"]


def it_is_started_as_the_charts_expect(image):
    got = {key: image.config.get(key) for key in ("User", "Entrypoint", "Cmd", "ExposedPorts", "Volumes")}
    want = {
        "User": "65532:65532", "Entrypoint": ["/sf-token-proxy"], "Cmd": ["run"], "ExposedPorts": {"9090/tcp": {}},
        "Volumes": None,
    }  # fmt: skip
    assert got == want, f"{got}, not {want}"


def it_says_what_it_is(image):
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in image.config["Labels"].items()}
    cargo = (ROOT / "Cargo.toml").read_text()
    for label, key in (("title", "name"), ("version", "version"), ("licenses", "license"), ("description", "description")):
        want = re.search(f'^{key} = "(.*)"$', cargo, re.M)[1]
        assert labels.get(label) == want, f"the label {label} is {labels.get(label)!r}, Cargo.toml has {want!r}"
    rest = {"created", "revision", "source"}
    assert set(labels) == {"title", "version", "licenses", "description"} | rest, f"the labels are {sorted(labels)}"


def no_time_of_the_build_is_in_it(image):
    assert image.whole["created"] == "1970-01-01T00:00:00Z", f"created {image.whole['created']}"
    late = [name for name, member in image.members.items() if member.mtime != 0]
    assert not late, f"times other than 0: {late}"


def it_holds_the_program_and_what_that_needs_and_no_shell(image):
    more = [name for name in image.bytes if not any(re.fullmatch(known, name) for known in FILES)]
    assert not more, f"unexpected files: {more}"
    for known in FILES:
        assert any(re.fullmatch(known, name) for name in image.bytes), f"nothing is called {known}"
    odd = [name for name, member in image.members.items() if not (member.isreg() or member.isdir())]
    assert not odd, f"neither files nor folders: {odd}"


def all_of_it_is_roots_and_nobody_can_write_or_become_somebody(image):
    for name, member in image.members.items():
        assert (member.uid, member.gid) == (0, 0), f"{name} belongs to {member.uid}:{member.gid}"
        # Nothing setuid, setgid or sticky; nothing that others may write.
        want = 0o755 if member.isdir() or name.startswith(("lib", "sf-token-proxy")) else 0o644
        assert member.mode & 0o7777 == want, f"{name} has mode {member.mode:o}, not {want:o}"


def its_authorities_are_the_public_ones(image):
    """An authority that the building machine's owner added (for a proxy that opens TLS) must not get into the image."""
    begin = b"-----BEGIN CERTIFICATE-----"
    bundle = image.bytes["etc/ssl/certs/ca-certificates.crt"]
    listed = output("dpkg", "-L", "ca-certificates").stdout.split()
    public = [pathlib.Path(name).read_bytes().strip() for name in listed if name.endswith(".crt")]
    assert len(public) > 100 and bundle.count(begin) == len(public), f"{bundle.count(begin)} certificates, Debian has {len(public)}"
    missing = [one for one in public if one not in bundle]
    assert not missing, f"{len(missing)} certificates of Debian's are not in it"


def what_builds_it_is_one_image_by_its_digest(_):
    builder = re.search(r"^ARG BUILDER=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)[1]
    assert re.search(r"@sha256:[0-9a-f]{64}$", builder), f"BUILDER is a tag that may move: {builder}"
    tests = re.findall(r"^ +image: (\S+)$", (ROOT / ".github/workflows/ci.yml").read_text(), re.M)
    assert tests == [builder], f"the tests run in {tests}, the image is built in {builder}"


def the_binary_is_small(image):
    assert len(image.binary) <= MAX_BINARY, f"{len(image.binary)} bytes, {len(image.binary) - MAX_BINARY} too many"


def the_practice_org_is_not_in_it(image):
    code, _, said = run("demo", "--once")
    assert code == 64 and "unrecognized subcommand" in said, f"`demo` ends with {code}: {said}"
    # The other way round, the search would find nothing in any binary.
    practice = (TARGET / "image/practice/sf-token-proxy").read_bytes()
    assert PRACTICE_ONLY in practice, f"the practice org's own binary has no {PRACTICE_ONLY}: choose another string"
    assert PRACTICE_ONLY not in image.binary, f"{PRACTICE_ONLY} is in the binary"


def no_path_of_the_building_machine_is_in_it(image):
    home = pathlib.Path.home()
    cargo = pathlib.Path(os.environ.get("CARGO_HOME", home / ".cargo")).resolve()
    sysroot = output("rustc", "--print", "sysroot").stdout.strip()
    for path in {str(ROOT), str(TARGET), str(cargo), str(home), sysroot}:
        found = re.findall(rb"[ -~]{0,20}" + re.escape(path.encode()) + rb"/[ -~]{0,60}", image.binary)
        assert not found, f"{len(found)} times {path}, e.g. {found[0]}"


def two_builds_give_one_digest(_):
    output("tests/image/build.sh", "--again", AGAIN)
    try:
        digests = {name: output("skopeo", "inspect", "--format={{.Digest}}", f"containers-storage:{name}").stdout for name in (IMAGE, AGAIN)}
        assert digests[IMAGE] == digests[AGAIN], f"{digests}"
    finally:
        output("buildah", "rmi", AGAIN)


def version_and_check_work_in_a_restricted_container(_):
    code, said, errors = run("version")
    assert code == 0 and said.startswith("sf-token-proxy "), f"version: {code}, {said}{errors}"
    with mounted() as options:
        code, said, errors = run("check", "--config", "/etc/sf-token-proxy/config.yaml", options=options)
        assert code == 0 and said.startswith("ok\n"), f"check: {code}, {said}{errors}"


def a_missing_configuration_ends_with_78(_):
    for args in ([], ["run"], ["check"], ["run", "--config", "/etc/sf-token-proxy/config.yaml"]):
        code, said, errors = run(*args)
        assert code == 78 and errors.strip(), f"{args}: {code}, {said}{errors}"


def as_process_1_it_ends_with_0_on_sigterm(_):
    with mounted() as options:
        output("podman", "create", "--name", CONTAINER, *RESTRICTED, *options, IMAGE, "run", "--config", "/etc/sf-token-proxy/config.yaml")
        try:
            output("podman", "start", CONTAINER)
            log = subprocess.Popen(["podman", "logs", "--follow", CONTAINER], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                seen = read_until(log.stdout, b'"message":"listening"')
            finally:
                log.kill()
                log.wait()
            assert output("podman", "inspect", "--format={{.State.Running}}", CONTAINER).stdout.strip() == "true", seen
            output("podman", "kill", "--signal=TERM", CONTAINER)
            waited = output("timeout", str(PATIENCE), "podman", "wait", CONTAINER, check=False)
            assert waited.stdout.strip() == "0", f"after SIGTERM: {waited.stdout or 'still running'}"
        finally:
            output("podman", "rm", "--force", "--time=0", CONTAINER)


def the_practice_image_works(_):
    """What it is for: the fake org of the tests' pods. Its tour has a TLS server, logins, calls and the proxy in it."""
    code, said, errors = run("demo", "--once", image=PRACTICE, options=["--tmpfs=/tmp:mode=1777"])
    assert code == 0, f"demo --once: {code}\n{said}{errors}"


CHECKS = [
    it_is_started_as_the_charts_expect,
    it_says_what_it_is,
    no_time_of_the_build_is_in_it,
    it_holds_the_program_and_what_that_needs_and_no_shell,
    all_of_it_is_roots_and_nobody_can_write_or_become_somebody,
    its_authorities_are_the_public_ones,
    what_builds_it_is_one_image_by_its_digest,
    the_binary_is_small,
    the_practice_org_is_not_in_it,
    no_path_of_the_building_machine_is_in_it,
    two_builds_give_one_digest,
    version_and_check_work_in_a_restricted_container,
    a_missing_configuration_ends_with_78,
    as_process_1_it_ends_with_0_on_sigterm,
    the_practice_image_works,
]


class mounted(tempfile.TemporaryDirectory):
    """A configuration and its secret, mounted where the charts mount them; the org is one that nobody can reach."""

    def __enter__(self):
        folder = pathlib.Path(super().__enter__())
        config = {
            "orgs": {
                "main": {
                    "login_url": "https://acme.my.salesforce.com",
                    "grant": {"client_credentials": {"client_id": "app", "client_secret": "file:/var/run/secrets/sf-token-proxy/client-secret"}},
                }
            }
        }
        (folder / "config").mkdir()
        (folder / "secret").mkdir()
        # JSON is YAML.
        (folder / "config/config.yaml").write_text(json.dumps(config))
        (folder / "secret/client-secret").write_text("secret")
        # The container's user is nobody here.
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o444)
        return [f"--volume={folder}/config:/etc/sf-token-proxy:ro", f"--volume={folder}/secret:/var/run/secrets/sf-token-proxy:ro"]


def read_until(stream, what):
    seen = b""
    while what not in seen:
        ready, _, _ = select.select([stream], [], [], PATIENCE)
        piece = os.read(stream.fileno(), 65536) if ready else b""
        assert piece, f"{what} did not come: {seen.decode(errors='replace')}"
        seen += piece
    return seen


def main():
    os.chdir(ROOT)
    os.environ["CONTAINERS_CONF"] = str(ROOT / "tests/image/containers.conf")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        image = Image(IMAGE, pathlib.Path(folder))
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            try:
                check(image)
                print(f"image: ok: {name}")
            except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as problem:
                failed += 1
                print(f"image: FAILED: {name}: {problem}", file=sys.stderr)
    print(f"image: the binary has {len(image.binary)} bytes, the whole image {sum(map(len, image.bytes.values()))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
