"""The scenarios. A scenario is a function of a `Trial` that returns the text of its output line."""
import json
import os
import signal
import sys
import time

from lab import MIB, PORT, Failed, Flow

SCENARIOS = []
RUNTIMES = tuple(os.environ.get("TALLOW_RUNTIMES", "tokio,smol").split(","))
# A shorter pause does not count as a stall.
GAP = 0.3
LONG = bool(os.environ.get("TALLOW_LONG"))


def scenario(topology="home", bound=150, variants=({},), alternating=(), long=()):
    """Registers a scenario for each of the variants of its arguments, which may be named in its
    topology; options may follow that.

    `alternating` ones run on one runtime each, one after the other, and `long` ones not at all,
    unless everything was asked for.
"""
    def register(function):
        def add(variant, runtimes):
            words = [function.__name__] + [str(value) for value in variant.values()]
            SCENARIOS.append(("-".join(words).replace("_", "-"), topology, bound, function, variant, runtimes))
        for variant in variants:
            add(variant, RUNTIMES)
        for index, variant in enumerate(alternating):
            add(variant, RUNTIMES if LONG else (RUNTIMES[index % len(RUNTIMES)],))
        for variant in long if LONG else ():
            add(variant, RUNTIMES)
        return function
    return register


class Transfer:
    """The usual set-up: a relay, a slow line at alice, and a transfer in progress; over the relay unless `p2p`."""

    def __init__(self, t, relays=("203.0.113.10",), rate="40mbit", size=24, accept="--yes", send=(), receive=(),
                 hosts=("alice", "bob"), port=PORT, drain=10, p2p=False):
        self.t, self.relays, self.size, self.hosts = t, relays, size, hosts
        own = [] if p2p else ["--no-p2p"]
        self.receiver_args, self.sender_args = [*own, *receive], [*own, *send]
        self.receiver_args += [accept] if accept else []
        self.terminal = accept is None
        if rate:
            t.netlab("link", "alice", "--rate", rate)
        self.relay = t.relay(port=port, drain=drain)
        self.source = t.source(size)
        self.sender = self.receiver = self.flow = None

    def send(self, name="sender"):
        self.sender = self.t.send(self.source, *self.sender_args, relays=self.relays, name=name, host=self.hosts[0])
        self.code_after = self.sender.wait("code")[0] - self.sender.started
        return self.sender

    def receive(self, name="receiver"):
        code = self.sender.said("code")[0]["code"]
        self.receiver = self.t.receive(code, *self.receiver_args, relays=self.relays, name=name, host=self.hosts[1],
                                       terminal=self.terminal)
        self.flow = Flow(self.receiver)
        return self.receiver

    def until(self, share):
        """Waits until the receiver has that share of the bytes."""
        self.receiver.wait("progress", where=lambda said: said["bytes"] >= share * said["total"] > 0)

    def under_way(self, share=0.05):
        self.send()
        self.receive()
        self.until(share)
        return self

    def finish(self):
        """Both ended successfully and the bytes are the same."""
        for program in (self.receiver, self.sender):
            code = program.end()
            if code:
                raise Failed("%s ended with %d: %s" % (program.name, code, program.said("error")))
            if not program.said("done"):
                raise Failed("%s said nothing of its end" % program.name)
        self.flow.over = True
        return self.t.check(self.source)

    def again(self):
        """How often each side lost its link."""
        return self.sender.reconnects(), self.receiver.reconnects()

    def told(self, fault, healed=None):
        """Ends it; the line of a scenario with a fault at a time, and its end at another."""
        healed = healed or fault
        size = self.finish()
        stood, ended = self.flow.stall(fault)
        lost = self.again()
        reconnects = "no reconnect" if lost == (0, 0) else "reconnects: sender %d, receiver %d" % lost
        had = max(
            [said["bytes"] for at, said in self.receiver.events if at < fault and said["event"] == "progress"] or [0]
        )
        if had > 0.9 * size:
            raise Failed("the fault came too late to matter, at %d of %d bytes" % (had, size))
        gap = "stood for %.1f s" % stood
        if stood > GAP:
            gap += " and went on %.1f s after it was over" % max(0.0, ended - healed)
        return "at %.0f %% %s, %s, %s, %.0f MiB" % (
            100 * had / size, gap, reconnects, self.receiver.transport(), size / MIB)


def cut(t, host, seconds, meanwhile=lambda: None):
    """Unplugs a cable for this time; returns the times when it was unplugged and when it was back."""
    t.netlab("cut", host)
    out = time.monotonic()
    meanwhile()
    t.sleep(out + seconds - time.monotonic())
    t.netlab("heal", host)
    return out, time.monotonic()


def invisible(transfer, times, line):
    """A cable that was out for 5 s causes no event; a busy machine may take longer to plug it in again."""
    took = times[1] - times[0]
    if took > 6.5:
        return "%s; the cable was out for %.1f s, too long to be judged" % (line, took)
    if transfer.again() != (0, 0):
        raise Failed("the fault was to be invisible, but links were lost: %s" % (transfer.again(),))
    return line


@scenario(variants=({"host": "alice"}, {"host": "bob"}))
def cable_5s(t, host):
    transfer = Transfer(t).under_way()
    times = cut(t, host, 5)
    return invisible(transfer, times, transfer.told(*times))


@scenario(variants=(), alternating=({"host": "alice"}, {"host": "bob"}))
def cable_40s(t, host):
    transfer = Transfer(t).under_way()
    return transfer.told(*cut(t, host, 40))


@scenario(bound=1500, variants=(), long=({"host": "alice"}, {"host": "bob"}))
def cable_10min(t, host):
    transfer = Transfer(t).under_way()
    return transfer.told(*cut(t, host, 600))


@scenario(
    variants=({"host": "alice", "seconds": 8}, {"host": "bob", "seconds": 8}), long=({"host": "alice", "seconds": 40},)
)
def cable_before_pairing(t, host, seconds):
    transfer = Transfer(t, size=8)
    transfer.send()
    if host == "alice":
        times = cut(t, host, seconds)
        transfer.receive()
    else:
        times = cut(t, host, seconds, transfer.receive)
    transfer.receiver.wait("paired")
    return transfer.told(*times)


@scenario(
    variants=({"host": "alice", "seconds": 5},),
    alternating=({"host": "bob", "seconds": 25}, {"host": "alice", "seconds": 25}),
)
def cable_at_the_offer(t, host, seconds):
    transfer = Transfer(t, size=8, accept=None)
    transfer.send()
    transfer.receive()
    transfer.receiver.wait("offer")

    def answer():
        t.sleep(seconds / 2)
        transfer.receiver.answer("y")
    times = cut(t, host, seconds, answer)
    line = transfer.told(*times)
    return invisible(transfer, times, line) if seconds == 5 else line


@scenario(
    variants=({"host": "alice", "seconds": 5},),
    alternating=({"host": "bob", "seconds": 25}, {"host": "alice", "seconds": 25}),
)
def cable_at_the_end(t, host, seconds):
    transfer = Transfer(t, size=1)
    # The receiver's last message is in flight, or not yet sent, while the cable is out.
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
    transfer = Transfer(t, size=24).under_way()
    t.netlab("readdress", host)
    return transfer.told(time.monotonic())


@scenario(variants=tuple({"site": site, "ports": "new_ports"} for site in "ab"),
          alternating=tuple({"site": site, "ports": "same_ports"} for site in "ab"))
def flush_nat(t, site, ports):
    transfer = Transfer(t, size=24).under_way()
    t.netlab("flush-nat", site, *(["--same-ports"] if ports == "same_ports" else []))
    return transfer.told(time.monotonic())


@scenario(variants=({"seconds": 1},), alternating=({"seconds": 20},))
def relay_killed(t, seconds):
    transfer = Transfer(t).under_way()
    transfer.relay.kill()
    fault = time.monotonic()
    t.sleep(seconds)
    t.relay()
    return transfer.told(fault, time.monotonic())


@scenario(variants=(), alternating=({},))
def relay_gone_another_there(t):
    relays = ("203.0.113.10", "203.0.113.20")
    t.relay("relay2")
    transfer = Transfer(t, relays=relays).under_way()
    transfer.relay.kill()
    return transfer.told(time.monotonic())


@scenario()
def relay_drains_another_there(t):
    t.relay("relay2")
    transfer = Transfer(t, relays=("203.0.113.10", "203.0.113.20"), size=32, drain=1).under_way()
    transfer.relay.signal(signal.SIGTERM)
    line = transfer.told(time.monotonic())
    if code := transfer.relay.end():
        raise Failed("the relay ended with %d" % code)
    return line


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
    # The test ends the other program: a side that only lost its peer keeps waiting for it.
    other.signal(signal.SIGTERM)
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


def begin(transfer):
    """Runs a whole transfer; returns when the code was shown, when they were paired, and the transport."""
    transfer.send()
    transfer.receive()
    paired = transfer.receiver.wait("paired")[0] - transfer.receiver.started
    size = transfer.finish()
    over = "%s to %s" % (transfer.sender.transport(), transfer.receiver.transport())
    return "code after %.2f s, paired %.2f s after the receiver's start, %s, %.0f MiB" % (
        transfer.code_after, paired, over, size / MIB)


def over_tcp(*programs):
    for program in programs:
        if program.transport() not in ("tcp", "websocket"):
            raise Failed("%s uses %s" % (program.name, program.transport()))


@scenario("office", variants=({"blocked": "sender"}, {"blocked": "receiver"}))
def office(t, blocked):
    transfer = Transfer(t, rate=None, hosts=("bob", "alice") if blocked == "sender" else ("alice", "bob"))
    line = begin(transfer)
    over_tcp(getattr(transfer, blocked))
    return line


@scenario("egress-443-tcp-only/egress-443-tcp-only")
def hotel(t):
    transfer = Transfer(t, relays=("203.0.113.10:443",), port=443, rate=None)
    line = begin(transfer)
    over_tcp(transfer.sender, transfer.receiver)
    return line


@scenario(variants=(), alternating=({"site": "a"}, {"site": "b"}))
def udp_blocked_in_between(t, site):
    transfer = Transfer(t).under_way()
    t.netlab("nat", site, "udp-blocked")
    line = transfer.told(time.monotonic())
    over_tcp(transfer.sender if site == "a" else transfer.receiver)
    return line


@scenario(variants=({"one": "tcp", "other": "websocket"}, {"one": "websocket", "other": "quic"}))
def transports(t, one, other):
    transfer = Transfer(t, rate=None, send=["--transport", one], receive=["--transport", other])
    line = begin(transfer)
    used = transfer.sender.transport(), transfer.receiver.transport()
    if used != (one, other):
        raise Failed("asked for %s and %s, used %s and %s" % (one, other, *used))
    return line


@scenario(
    variants=(
        {"transport": "tcp", "host": "alice", "fault": "cut_5s"},
        {"transport": "tcp", "host": "alice", "fault": "readdress"},
    ),
    alternating=(
        {"transport": "websocket", "host": "bob", "fault": "readdress"},
        {"transport": "websocket", "host": "alice", "fault": "relay_killed"},
    ),
    long=({"transport": "tcp", "host": "bob", "fault": "cut_40s"},),
)
def only(t, transport, host, fault):
    transfer = Transfer(t, send=["--transport", transport], receive=["--transport", transport]).under_way()
    began = time.monotonic()
    if fault == "readdress":
        t.netlab("readdress", host)
        began = time.monotonic()
    elif fault == "relay_killed":
        transfer.relay.kill()
        t.sleep(1)
        t.relay()
    else:
        began, _ = cut(t, host, 5 if fault == "cut_5s" else 40)
    line = transfer.told(began, time.monotonic())
    over_tcp(transfer.sender, transfer.receiver)
    return line


COUNTERS = """
table inet counts {
    counter datagrams {}
    counter lookups {}
    counter elsewhere {}
    counter proxied {}
    chain out {
        type filter hook output priority 0;
        meta l4proto udp counter name "datagrams"
        meta l4proto { tcp, udp } th dport { 53, 853, 5353 } counter name "lookups"
        meta l4proto != { icmp, ipv6-icmp } ip daddr != 203.0.113.20 counter name "elsewhere"
        meta nfproto ipv6 meta l4proto != ipv6-icmp counter name "elsewhere"
        ip daddr 203.0.113.20 meta l4proto tcp counter name "proxied"
    }
}
"""


def counted(t, host):
    """Packets that left `host`, by counter."""
    listed = json.loads(t.inside(host, "nft", "-j", "list", "counters"))["nftables"]
    return {each["counter"]["name"]: each["counter"]["packets"] for each in listed if "counter" in each}


DANTE = """
logoutput: stderr
internal: 0.0.0.0 port = 1080
external: eth0
clientmethod: none
socksmethod: none
user.unprivileged: nobody
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect }
"""
TINYPROXY = """
Port 1080
Listen 203.0.113.20
Timeout 600
Allow 203.0.113.0/24
ConnectPort 4433
"""


def proxy_for(t, kind):
    """A proxy on relay2 that is the only host to resolve relay.test; returns its URL."""
    config, hosts = os.path.join(t.dir, "proxy.conf"), os.path.join(t.dir, "hosts")
    with open(config, "w") as f:
        f.write(DANTE if kind == "socks5" else TINYPROXY)
    with open(hosts, "w") as f:
        f.write("127.0.0.1 localhost\n203.0.113.10 relay.test\n")
    program = "danted -f" if kind == "socks5" else "tinyproxy -d -c"
    t.start("relay2", "proxy", ["sh", "-c", "mount --bind %s /etc/hosts && exec %s %s" % (hosts, program, config)])
    t.listening("relay2", 1080)
    return "%s://203.0.113.20:1080" % kind


@scenario(variants=({"kind": "socks5"}, {"kind": "http"}))
def proxy(t, kind):
    url = proxy_for(t, kind)
    t.inside("alice", "nft", "-f", "-", text=COUNTERS)
    transfer = Transfer(t, rate=None, p2p=True)
    transfer.sender = t.send(transfer.source, "--proxy", url, relays=("relay.test",))
    code_after = transfer.sender.wait("code")[0] - transfer.sender.started
    transfer.receive()
    size = transfer.finish()
    over_tcp(transfer.sender)
    count = counted(t, "alice")
    if count["datagrams"] or count["lookups"] or count["elsewhere"] or not count["proxied"]:
        raise Failed("packets left beside the proxy: %s" % count)
    # Checks the counters: without a proxy the same start resolves the name, or sends UDP.
    plain = t.send(transfer.source, name="plain")
    plain.wait("code")
    plain.kill()
    if not counted(t, "alice")["datagrams"]:
        raise Failed("the counters count nothing")
    return "code after %.2f s, %s; left alice: %d packets to the proxy, 0 UDP, 0 for names, 0 elsewhere; %.0f MiB" % (
        code_after, transfer.sender.transport(), count["proxied"], size / MIB)


@scenario()
def onion(t):
    name = "tallowtallowtallowtallowtallowtallowtallowtallowtallowta.onion"
    proxy = t.start(
        "relay2",
        "proxy",
        [
            sys.executable,
            os.path.join(os.path.dirname(__file__), "socks.py"),
            "203.0.113.20:1080",
            "203.0.113.10:%d" % PORT,
        ],
    )
    proxy.wait("listening")
    t.inside("alice", "nft", "-f", "-", text=COUNTERS)
    transfer = Transfer(t, rate=None, size=8, p2p=True)
    transfer.sender = t.send(transfer.source, "--proxy", "socks5h://203.0.113.20:1080", relays=(name,))
    transfer.sender.wait("code")
    transfer.receive()
    size = transfer.finish()
    asked = proxy.said("asked")
    if any((each["kind"], each["host"], each["port"], each["command"]) != (3, name, PORT, 1) for each in asked):
        raise Failed("the proxy was asked for something else: %s" % asked)
    count = counted(t, "alice")
    if count["datagrams"] or count["lookups"] or count["elsewhere"]:
        raise Failed("packets left beside the proxy: %s" % count)
    return "asked %d times for the name as it is, %s, nothing beside the proxy, %.0f MiB" % (
        len(asked), transfer.sender.transport(), size / MIB)
