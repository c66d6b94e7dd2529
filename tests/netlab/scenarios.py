"""What is tried. A scenario is a function of a `Trial` that returns what happened, for its one line."""
import os
import signal
import time

from lab import MIB, Failed, Flow

SCENARIOS = []
# A transfer that stands for less did not stand.
GAP = 0.3
LONG = bool(os.environ.get("TALLOW_LONG"))


def scenario(topology="home", bound=150, long_only=False, variants=({},)):
    """Registers one scenario for each of the variants of its arguments."""
    def register(function):
        if long_only and not LONG:
            return function
        for variant in variants:
            words = [function.__name__] + [str(value) for value in variant.values()]
            SCENARIOS.append(("-".join(words).replace("_", "-"), topology, bound, function, variant))
        return function
    return register


class Transfer:
    """The usual set-up: a relay, a slow line at alice, and a transfer that is under way."""

    def __init__(self, t, relays=("203.0.113.10",), rate="50mbit", size=24, accept="--yes", send=(), receive=(), sender="alice"):
        self.t, self.relays, self.size = t, relays, size
        self.receiver_args, self.sender_args = [accept] if accept else [], list(send)
        self.receiver_args += receive
        self.terminal = accept is None
        if rate:
            t.netlab("link", "alice", "--rate", rate)
        self.relay = t.relay()
        self.source = t.source(size)
        self.sender = self.receiver = self.flow = None

    def send(self, name="sender"):
        self.sender = self.t.send(self.source, *self.sender_args, relays=self.relays, name=name)
        self.code_after = self.sender.wait("code")[0] - self.sender.started
        return self.sender

    def receive(self, name="receiver"):
        code = self.sender.said("code")[0]["code"]
        self.receiver = self.t.receive(code, *self.receiver_args, relays=self.relays, name=name, terminal=self.terminal)
        self.flow = Flow(self.receiver)
        return self.receiver

    def until(self, share):
        """Until the receiver has that share of the bytes."""
        self.receiver.wait("progress", where=lambda said: said["bytes"] >= share * said["total"] > 0)

    def under_way(self, share=0.15):
        self.send()
        self.receive()
        self.until(share)
        return self

    def finish(self):
        """Both ended well and the bytes are the same."""
        for program in (self.receiver, self.sender):
            code = program.end()
            if code:
                raise Failed("%s ended with %d: %s" % (program.name, code, program.said("error")))
            if not program.said("done"):
                raise Failed("%s said nothing of its end" % program.name)
        self.flow.over = True
        return self.t.check(self.source)

    def again(self):
        """How often each lost its link."""
        return self.sender.reconnects(), self.receiver.reconnects()

    def told(self, fault, healed=None):
        """Ends it; the line of a scenario with a fault at a time, and its end at another."""
        healed = healed or fault
        size = self.finish()
        stood, ended = self.flow.stall(fault)
        lost = self.again()
        reconnects = "no reconnect" if lost == (0, 0) else "reconnects: sender %d, receiver %d" % lost
        had = max([said["bytes"] for at, said in self.receiver.events if at < fault and said["event"] == "progress"] or [0])
        if had > 0.8 * size:
            raise Failed("the fault came too late to matter, at %d of %d bytes" % (had, size))
        gap = "stood for %.1f s" % stood
        if stood > GAP:
            gap += " and went on %.1f s after it was over" % (ended - healed)
        return "at %.0f %% %s, %s, %s, %.0f MiB" % (
            100 * had / size, gap, reconnects, self.receiver.transport(), size / MIB)


def invisible(transfer):
    if transfer.again() != (0, 0):
        raise Failed("the fault was to be invisible, but links were lost: %s" % (transfer.again(),))


def cut(t, host, seconds):
    """A cable is out for so long; the times when it went out and when it was back."""
    t.netlab("cut", host)
    out = time.monotonic()
    t.sleep(seconds)
    t.netlab("heal", host)
    return out, time.monotonic()


@scenario(variants=({"host": "alice"}, {"host": "bob"}))
def cable_5s(t, host):
    transfer = Transfer(t).under_way()
    line = transfer.told(*cut(t, host, 5))
    invisible(transfer)
    return line


@scenario(variants=({"host": "alice"}, {"host": "bob"}))
def cable_40s(t, host):
    transfer = Transfer(t).under_way()
    return transfer.told(*cut(t, host, 40))


@scenario(long_only=True, bound=1500, variants=({"host": "alice"}, {"host": "bob"}))
def cable_10min(t, host):
    transfer = Transfer(t).under_way()
    return transfer.told(*cut(t, host, 600))


@scenario(variants=({"host": "alice", "seconds": 15}, {"host": "bob", "seconds": 15}))
def cable_before_pairing(t, host, seconds):
    transfer = Transfer(t, size=8)
    transfer.send()
    if host == "alice":
        times = cut(t, host, seconds)
        transfer.receive()
    else:
        t.netlab("cut", host)
        out = time.monotonic()
        transfer.receive()
        t.sleep(seconds)
        t.netlab("heal", host)
        times = out, time.monotonic()
    transfer.receiver.wait("paired")
    return transfer.told(*times)


@scenario(variants=({"host": "alice", "seconds": 5}, {"host": "alice", "seconds": 40}, {"host": "bob", "seconds": 40}))
def cable_at_the_offer(t, host, seconds):
    transfer = Transfer(t, size=8, accept=None)
    transfer.send()
    transfer.receive()
    transfer.receiver.wait("offer")
    t.netlab("cut", host)
    out = time.monotonic()
    t.sleep(seconds / 2)
    # The answer is given while the cable is out.
    transfer.receiver.answer("y")
    t.sleep(seconds / 2)
    t.netlab("heal", host)
    line = transfer.told(out, time.monotonic())
    if seconds == 5:
        invisible(transfer)
    return line


@scenario(variants=({"host": "alice", "seconds": 5}, {"host": "alice", "seconds": 40}, {"host": "bob", "seconds": 40}))
def cable_at_the_end(t, host, seconds):
    transfer = Transfer(t, size=1)
    # What the receiver says last is on its way, or not yet said, while the cable is out.
    t.netlab("link", "bob", "--up", "--delay", "1s")
    transfer.under_way()
    transfer.until(1.0)
    out, back = cut(t, host, seconds)
    size = transfer.finish()
    waited = transfer.sender.wait("done")[0] - back
    if waited < 0:
        raise Failed("the sender knew of the end before the cable was back")
    return "the sender knew of the end %.1f s after it was over, reconnects: sender %d, receiver %d, %s, %.0f MiB" % (
        waited, *transfer.again(), transfer.receiver.transport(), size / MIB)


@scenario(variants=({"host": "alice"}, {"host": "bob"}))
def readdress(t, host):
    transfer = Transfer(t, size=32).under_way()
    t.netlab("readdress", host)
    return transfer.told(time.monotonic())


@scenario(variants=tuple({"site": site, "ports": ports} for site in "ab" for ports in ("new_ports", "same_ports")))
def flush_nat(t, site, ports):
    transfer = Transfer(t, size=32).under_way()
    t.netlab("flush-nat", site, *(["--same-ports"] if ports == "same_ports" else []))
    return transfer.told(time.monotonic())


@scenario(variants=({"seconds": 1}, {"seconds": 20}))
def relay_killed(t, seconds):
    transfer = Transfer(t).under_way()
    transfer.relay.kill()
    fault = time.monotonic()
    t.sleep(seconds)
    t.relay()
    return transfer.told(fault, time.monotonic())


@scenario()
def relay_gone_another_there(t):
    relays = ("203.0.113.10", "203.0.113.20")
    t.relay("relay2")
    transfer = Transfer(t, relays=relays).under_way()
    transfer.relay.kill()
    return transfer.told(time.monotonic())


@scenario(bound=240, variants=({"who": "sender"}, {"who": "receiver"}, {"who": "relay"}))
def stopped(t, who):
    transfer = Transfer(t).under_way()
    program = getattr(transfer, who)
    program.signal(signal.SIGSTOP)
    fault = time.monotonic()
    t.sleep(60 if LONG else 20)
    program.signal(signal.SIGCONT)
    return transfer.told(fault, time.monotonic())


@scenario(variants=({"who": "receiver"}, {"who": "sender"}))
def killed(t, who):
    transfer = Transfer(t).under_way(share=0.4)
    getattr(transfer, who).kill()
    other = transfer.sender if who == "receiver" else transfer.receiver
    # Its person ends the other one: whoever only lost the other side waits for it.
    other.signal(signal.SIGINT)
    other.end()
    transfer.flow.over = True
    transfer.send("sender-again")
    transfer.receive("receiver-again")
    size = transfer.finish()
    kept = [said["bytes_kept"] for said in transfer.receiver.said("resumed")]
    if not kept or kept[0] <= 0:
        raise Failed("nothing was resumed: %s" % kept)
    return "kept %.1f of %.0f MiB" % (kept[0] / MIB, size / MIB)


@scenario()
def lossy_line(t):
    transfer = Transfer(t, rate=None)
    t.netlab("link", "alice", "--rtt", "100ms", "--loss", "1%", "--rate", "200mbit")
    began = time.monotonic()
    transfer.under_way()
    size = transfer.finish()
    done = transfer.receiver.said("done")[0]
    return "100 ms, 1%% loss: %.0f Mbit/s, %.1f s, reconnects: %d and %d, %.0f MiB" % (
        size * 8e-6 / max(done["seconds"], 1e-3), time.monotonic() - began, *transfer.again(), size / MIB)
