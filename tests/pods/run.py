#!/usr/bin/env python3
"""Real pods: the rendered charts, run by podman as a kubelet would, against the practice org.

    make pods                         all of it
    tests/pods/run.py --only rotated  the tests with that word in their names

Each test has a network, a practice org and pods of its own; several run at a time. After each its logs, messages, metrics and answers are
searched for secrets and tokens. Ends with the plain line `N passed, N failed`. Needs root, podman, runc, iproute2, curl, openssl.
Nothing is skipped: a missing tool is a failure. Everything is removed at the end, whatever has happened.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

import cases
import cases_change  # noqa: F401
import cases_classic  # noqa: F401
import cases_forms  # noqa: F401
import cases_kubelet  # noqa: F401
import cases_life  # noqa: F401
import cases_size  # noqa: F401
from podman import run
from world import ROOT, Tools, World

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# Seconds that a test may take before the run is given up; a pod's own waits are much shorter.
PATIENCE = 300


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a word of the names of the tests to run")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--image", default="localhost/sf-token-proxy:test")
    parser.add_argument("--app-image", default="localhost/sf-token-proxy-pod-app:test")
    parser.add_argument("--box-image", default="localhost/sf-token-proxy-pod-busybox:test")
    parser.add_argument("--org-binary", default=TARGET / "debug/sf-token-proxy")
    parser.add_argument("--node-modules", type=pathlib.Path, default=TARGET / "charts/node_modules", help="where tests/charts/setup.sh has put helm and kustomize")
    parser.add_argument("--values", type=pathlib.Path, help="JSON, merged into the values of every rendering")
    return parser.parse_args()


class Results:
    def __init__(self):
        self.passed = self.failed = 0
        self.lock = threading.Lock()

    def note(self, name, took, wrong=None):
        with self.lock:
            self.failed += wrong is not None
            self.passed += wrong is None
            print(f"{'ok  ' if wrong is None else 'FAIL'} {name}  {took:.1f} s", flush=True)
            if wrong:
                print("\n".join("     " + line for line in wrong.splitlines()), flush=True)


class Worlds:
    """Those of the tests that run now, so that all can be ended from outside."""

    def __init__(self, scratch):
        self.scratch, self.open, self.over = scratch, [], False
        self.lock = threading.Lock()

    def make(self, number):
        with self.lock:
            if self.over:
                raise InterruptedError("the run is over")
            world = World(self.scratch / str(number), f"pods-{os.getpid()}-{number}")
            self.open.append(world)
        return world

    def end(self):
        """Everything away at once; each test then fails with what it was waiting for, and its thread ends."""
        with self.lock:
            self.over = True
        closing = [threading.Thread(target=world.close) for world in self.open]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()


def one(test, number, worlds, results):
    """A test in a world of its own, and the search of all that it has left."""
    begun, world, wrong = time.monotonic(), None, None
    try:
        world = worlds.make(number)
        test(world)
    except BaseException as error:
        wrong = f"{type(error).__name__}: {error}" if isinstance(error, AssertionError) else traceback.format_exc()
    try:
        if world and (bad := world.leaks()):
            wrong = f"{wrong or ''}\nsecrets or tokens stand in: {bad}"
    except Exception:
        wrong = f"{wrong or ''}\n{traceback.format_exc()}"
    finally:
        try:
            if world:
                world.close()
        except Exception:
            wrong = f"{wrong or ''}\n{traceback.format_exc()}"
    results.note(test.__name__, time.monotonic() - begun, wrong)


def main():
    given = arguments()
    Tools.image, Tools.app_image, Tools.box_image = given.image, given.app_image, given.box_image
    Tools.org_binary, Tools.node_modules, Tools.helm = given.org_binary, given.node_modules, given.node_modules / ".bin/helm"
    if given.values:
        Tools.values = json.loads(given.values.read_text())
    for tool in ("podman", "runc", "ip", "ss", "nsenter", "curl", "openssl", Tools.helm, Tools.org_binary):
        if not shutil.which(tool):
            raise SystemExit(f"missing: {tool}; make tools installs Debian's, the others are made by make pods")
    if os.geteuid() != 0:
        raise SystemExit("pods need root: networks, mounts and owners of files are made")
    # As for Ctrl-C: what runs is ended and removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="pods-"))
    scratch.chmod(0o755)
    results, begun = Results(), time.monotonic()
    # A copy: helm puts the library into the example's folder.
    Tools.charts = scratch / "charts"
    shutil.copytree(ROOT / "charts", Tools.charts)
    run(Tools.helm, "dependency", "build", "--skip-refresh", Tools.charts / "example")
    chosen = [test for test in cases.ALL if given.only in test.__name__]
    pool, worlds, given_up = concurrent.futures.ThreadPoolExecutor(given.workers), Worlds(scratch), None
    try:
        running = [pool.submit(one, test, number, worlds, results) for number, test in enumerate(chosen)]
        for test, future in zip(chosen, running, strict=True):
            try:
                # Those before it are over, so it runs.
                future.result(PATIENCE)
            except TimeoutError:
                given_up = f"{test.__name__} takes more than {PATIENCE} s"
                break
    except KeyboardInterrupt:
        given_up = "a signal"
    finally:
        # Once is enough, and what cleans up is not to be broken off.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        pool.shutdown(wait=False, cancel_futures=True)
        worlds.end()
        pool.shutdown(wait=True)
        shutil.rmtree(scratch, ignore_errors=True)
    if given_up:
        print(f"given up: {given_up}")
    print(f"{results.passed} passed, {results.failed} failed in {time.monotonic() - begun:.0f} s")
    return 0 if not given_up and results.failed == 0 and results.passed == len(chosen) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
