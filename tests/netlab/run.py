#!/usr/bin/env python3
"""Runs the scenarios, each on both runtimes and in a laboratory of its own.

Usage: run.py TALLOW [NAME...]        NAME: scenarios whose name begins so; all without one
TALLOW_LONG=1: what takes minutes, too. TALLOW_RUNTIMES: tokio,smol. TALLOW_NETLAB_KEEP=DIR: where logs of failures go.
"""
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import better  # noqa: F401, they register their scenarios
import direct  # noqa: F401
import liars  # noqa: F401
import lab
from scenarios import SCENARIOS

AT_ONCE = 3


def sources(directory):
    """Files of random bytes by their size in MiB, made once."""
    made, lock = {}, threading.Lock()

    def source(mebibytes):
        with lock:
            if mebibytes not in made:
                made[mebibytes] = os.path.join(directory, "%d-MiB.bin" % mebibytes)
                with open(made[mebibytes], "wb") as f:
                    f.write(os.urandom(mebibytes * lab.MIB))
                lab.digest(made[mebibytes])
        return made[mebibytes]
    return source


def attempt(program, runtime, scenario, work, source):
    """Runs one scenario; returns its line, and whether it passed."""
    name, topology, bound, function, variant, _ = scenario
    trial = lab.Trial(name, "tallow_%d_%d" % (os.getpid() % 100000, threading.get_ident() % 1000), program, runtime,
                      os.path.join(work, "%s.%s" % (name, runtime)), bound)
    trial.source = source
    try:
        trial.up(*topology.format(**variant).split())
        return True, function(trial, **variant)
    except lab.Failed as failed:
        return False, str(failed)
    except Exception:
        return False, traceback.format_exc()
    finally:
        trial.down()


def main():
    program, names = os.path.realpath(sys.argv[1]), sys.argv[2:]
    chosen = [s for s in SCENARIOS if not names or any(s[0].startswith(name) for name in names)]
    waiting = queue.SimpleQueue()
    for scenario in chosen:
        for runtime in scenario[5]:
            waiting.put((scenario, runtime))
    count, passed, lock, began = waiting.qsize(), [], threading.Lock(), time.monotonic()
    work = tempfile.mkdtemp(prefix="tallow-netlab.")
    keep = os.environ.get("TALLOW_NETLAB_KEEP")
    source = sources(work)

    def worker():
        while True:
            try:
                scenario, runtime = waiting.get_nowait()
            except queue.Empty:
                return
            started = time.monotonic()
            good, line = attempt(program, runtime, scenario, work, source)
            directory = os.path.join(work, "%s.%s" % (scenario[0], runtime))
            if keep and not good:
                shutil.rmtree(os.path.join(directory, "out"), ignore_errors=True)
                shutil.copytree(directory, os.path.join(keep, os.path.basename(directory)), dirs_exist_ok=True)
            shutil.rmtree(directory, ignore_errors=True)
            with lock:
                print("%s %s [%s, %.0f s]: %s" % ("ok  " if good else "FAIL", scenario[0], runtime,
                                                  time.monotonic() - started, line), flush=True)
                if good:
                    passed.append(scenario[0])

    threads = [threading.Thread(target=worker) for _ in range(AT_ONCE)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        shutil.rmtree(work, ignore_errors=True)
        subprocess.run([lab.NETLAB, "gc"], capture_output=True)
    if len(passed) != count or not count:
        print("%d scenarios, %d failed" % (count, count - len(passed)))
        return 1
    print("%d scenarios, all byte-exact (after %.0f s)" % (count, time.monotonic() - began))
    return 0


if __name__ == "__main__":
    sys.exit(main())
