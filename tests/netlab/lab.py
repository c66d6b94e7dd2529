"""One scenario in a laboratory of its own: its network, the programs in it, their events, and the expected outcome.

`laboratory/netlab.sh` makes the network. The programs are the real ones; their JSON events are read as they are
written. Nothing here limits how long a program may take: `Trial.deadline` only ends a trial that would never end.
"""

import hashlib
import json
import os
import pty
import signal
import subprocess
import threading
import time

HERE = os.path.realpath(os.path.dirname(__file__))
NETLAB = os.path.join(HERE, "laboratory", "netlab.sh")
PORT = 4433
MIB = 1024 * 1024
# Keep-alives and handshakes have fewer packets than this; a transfer sends more of them in an instant.
MOVED = 64
SAMPLE = 0.02


class Failed(Exception):
    """An expected event did not happen."""


class Program:
    """A running tallow and its output."""

    def __init__(self, trial, host, name, args, terminal=False, env=None):
        self.trial, self.host, self.name = trial, host, name
        self.events = []
        self.news = threading.Condition()
        self.log = os.path.join(trial.dir, name + ".log")
        env = dict(
            {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}, NO_COLOR="1", **(env or {})
        )
        self.terminal, tty = pty.openpty() if terminal else (None, None)
        with open(self.log, "ab") as log:
            log.write(("$ %s\n" % " ".join(args)).encode())
            log.flush()
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", trial.space(host), *args],
                env=env,
                start_new_session=True,
                stdin=tty or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=tty or log,
            )
        if terminal:
            os.close(tty)
            threading.Thread(target=self.read_terminal, daemon=True).start()
        self.started = time.monotonic()
        threading.Thread(target=self.read, daemon=True).start()

    def read_terminal(self):
        with open(self.log, "ab", buffering=0) as log:
            try:
                while shown := os.read(self.terminal, 4096):
                    log.write(shown)
            except OSError:
                # A terminal without a program reads as an error.
                pass

    def read(self):
        with open(os.path.join(self.trial.dir, self.name + ".events"), "ab") as copy:
            for line in self.process.stdout:
                now = time.monotonic()
                copy.write(b"%.3f " % (now - self.trial.started) + line)
                copy.flush()
                if line.startswith(b"{"):
                    with self.news:
                        self.events.append((now, json.loads(line)))
                        self.news.notify_all()
        with self.news:
            self.events.append((time.monotonic(), {"event": "exit"}))
            self.news.notify_all()

    def wait(self, event, since=0.0, where=lambda e: True):
        """The time and the first event of that name, not before `since`."""
        seen = 0
        with self.news:
            while True:
                for at, said in self.events[seen:]:
                    seen += 1
                    if at >= since and said["event"] == event and where(said):
                        return at, said
                    if said["event"] == "exit" and event != "exit":
                        raise Failed("%s ended with %s before '%s'" % (self.name, self.process.wait(), event))
                left = self.trial.deadline - time.monotonic()
                if left <= 0:
                    last = self.events[-1][1] if self.events else "nothing"
                    raise Failed("%s never said '%s'; the last it said was %s" % (self.name, event, last))
                self.news.wait(left)

    def wait_log(self, text):
        """Waits until its log contains `text`."""
        while time.monotonic() < self.trial.deadline:
            with open(self.log, errors="replace") as log:
                if text in log.read():
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise Failed("%s never logged '%s'" % (self.name, text))

    def said(self, event, since=0.0):
        """All events of that name."""
        with self.news:
            return [said for at, said in self.events if at >= since and said["event"] == event]

    def reconnects(self):
        """How many times it lost its link, whatever number of attempts each took."""
        return sum(1 for said in self.said("reconnecting") if said["attempt"] == 1)

    def transport(self):
        """The transport of its bytes."""
        paths = self.said("path")
        return paths[-1]["transport"] if paths else "nothing"

    def answer(self, text):
        """Types it."""
        os.write(self.terminal, text.encode() + b"\n")

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """Ends it like a power failure."""
        self.process.kill()
        self.process.wait()

    def end(self):
        """Its exit code."""
        self.wait("exit")
        return self.process.wait()


class Flow:
    """The packets that arrive at a program's machine, sampled continuously, to find stalls."""

    def __init__(self, program):
        self.path, self.samples, self.over = "/proc/%d/net/snmp" % program.process.pid, [], False
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while not self.over:
            try:
                with open(self.path) as f:
                    names, values = [line.split() for line in f if line.startswith("Ip:")]
            except (OSError, ValueError):
                return
            # Packets for a current address of this machine, without those for an earlier one.
            self.samples.append((time.monotonic(), int(values[names.index("InDelivers")])))
            time.sleep(SAMPLE)

    def stall(self, since):
        """The longest time from `since` on in which almost nothing arrived: its length and its end."""
        samples = [sample for sample in list(self.samples) if sample[0] >= since]
        best, end, first = 0.0, since, 0
        for at, got in samples:
            while got - samples[first][1] > MOVED:
                first += 1
            if at - samples[first][0] > best:
                best, end = at - samples[first][0], at
        return best, end


class Trial:
    """A laboratory, a relay, a sender and a receiver."""

    def __init__(self, name, lab, program, runtime, directory, bound):
        self.name, self.lab, self.tallow, self.runtime, self.dir = name, lab, program, runtime, directory
        self.started = time.monotonic()
        self.deadline = self.started + bound
        self.programs = []
        os.makedirs(directory)

    # the network
    def netlab(self, *args):
        done = subprocess.run([NETLAB, "--lab", self.lab, *args], capture_output=True, text=True)
        if done.returncode:
            raise Failed("netlab %s: %s" % (" ".join(args), done.stderr.strip()))
        return done.stdout

    def space(self, host):
        return "nl-%s-%s" % (self.lab, host)

    def inside(self, host, *args, text=None):
        """Runs a command on a host; returns its output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.space(host), *args], input=text, capture_output=True, text=True
        )
        if done.returncode:
            raise Failed("%s on %s: %s" % (" ".join(args), host, done.stderr.strip()))
        return done.stdout

    def up(self, topology, *options):
        self.netlab("up", topology, "--replace", *options)
        self.deadline += time.monotonic() - self.started

    def down(self):
        for program in self.programs:
            if program.process.poll() is None:
                program.process.kill()
                program.process.wait()
        subprocess.run([NETLAB, "--lab", self.lab, "down"], capture_output=True)

    def sleep(self, seconds):
        time.sleep(max(0.0, min(seconds, self.deadline - time.monotonic())))

    # the programs
    def start(self, host, name, args, **more):
        program = Program(self, host, name, args, **more)
        self.programs.append(program)
        return program

    def relay(self, host="relay", port=PORT, drain=10, name=None):
        state = os.path.join(self.dir, "state-" + host)
        relay = self.start(
            host,
            name or host,
            [self.tallow, "relay", "-v", "--listen", "[::]:%d" % port, "--drain", str(drain), "--state-dir", state],
        )
        relay.wait_log("listening on")
        return relay

    def peer(self, host, name, command, args, relays, **more):
        state = os.path.join(self.dir, "state-" + name)
        named = [word for relay in relays for word in ("--relay", relay)]
        return self.start(host, name, [self.tallow, command, "--json", "-vv", "--runtime", self.runtime,
                                       "--state-dir", state, *named, *args], **more)

    def listening(self, host, port):
        """Waits until a program on `host` accepts connections at `port`."""
        while ":%d " % port not in self.inside(host, "ss", "-Htln"):
            if time.monotonic() > self.deadline:
                raise Failed("nothing listens at port %d of %s" % (port, host))
            time.sleep(0.05)

    def send(self, path, *args, relays=("203.0.113.10",), host="alice", name="sender", **more):
        return self.peer(host, name, "send", ["--no-compress", path, *args], relays, **more)

    def receive(self, code, *args, relays=("203.0.113.10",), host="bob", name="receiver", out="out", **more):
        directory = os.path.join(self.dir, out)
        os.makedirs(directory, exist_ok=True)
        return self.peer(host, name, "receive", [code, "--out", directory, *args], relays, **more)

    def check(self, path, out="out"):
        """Checks that the received bytes equal the sent ones; returns their number."""
        arrived = os.path.join(self.dir, out, os.path.basename(path))
        if digest(arrived) != digest(path):
            raise Failed("%s differs from what was sent" % arrived)
        return os.path.getsize(arrived)


DIGESTS = {}


def digest(path):
    """The sha256 of a file, cached while the file is unchanged."""
    at = os.stat(path)
    key = (path, at.st_ino, at.st_mtime_ns, at.st_size)
    if key not in DIGESTS:
        with open(path, "rb") as f:
            DIGESTS[key] = hashlib.file_digest(f, "sha256").hexdigest()
    return DIGESTS[key]
