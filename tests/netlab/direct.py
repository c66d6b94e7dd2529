"""The direct path: the path of the bytes between two sites, and what happens when that path is lost."""
import signal
import threading
import time

from lab import MIB, SAMPLE, Failed
from scenarios import COUNTERS, PORT, Transfer, counted, cut, scenario

MODES = ("none", "full-cone", "restricted", "port-restricted", "symmetric")
# The result of the laboratory's own probe: hole punching fails for these pairs and works for the other 22.
RELAYED = {("symmetric", "symmetric"), ("symmetric", "port-restricted"), ("port-restricted", "symmetric")}
# The bytes that keep a link alive, and those in flight when the transfer moved away from it.
IDLE = MIB // 2


class Forwarded:
    """The bytes that the relay's machine sends, sampled continuously."""

    def __init__(self, relay):
        self.path, self.samples, self.over = "/proc/%d/net/dev" % relay.process.pid, [], False
        self.sample()
        threading.Thread(target=self.run, daemon=True).start()

    def sample(self):
        with open(self.path) as f:
            sent = [int(line.split(":")[1].split()[8]) for line in f if line.strip().startswith("eth0:")]
        self.samples.append((time.monotonic(), sent[0]))

    def run(self):
        while not self.over:
            try:
                self.sample()
            except (OSError, IndexError):
                return
            time.sleep(SAMPLE)

    def since(self, start=0.0):
        """Bytes from `start` on."""
        samples = list(self.samples)
        before = [sent for at, sent in samples if at <= start] or [samples[0][1]]
        return samples[-1][1] - before[-1]


class Meeting(Transfer):
    """A transfer between two peers that may use a direct path; a second relay shows the behaviour of their NATs."""

    def __init__(self, t, size=16, limit="4M", **more):
        args = {way: list(more.pop(way, ())) for way in ("send", "receive")}
        for own in args.values():
            if "--no-p2p" not in own:
                own += ["--stun", "203.0.113.20:%d" % PORT]
        if limit:
            args["send"] += ["--limit", limit]
        super().__init__(t, rate=None, size=size, p2p=True, **args, **more)
        t.relay("relay2")
        self.forwarded = Forwarded(self.relay)

    def start(self):
        self.send()
        self.receive()
        return self

    def upgraded(self, since=0.0):
        """Waits until both report the direct path."""
        return max(program.wait("p2p_upgrade", since)[0] for program in (self.sender, self.receiver))

    def under_way(self, share=0.05):
        """Waits until the direct path is used, while most bytes are still to be sent."""
        self.start()
        self.upgraded()
        self.until(share)
        return self

    def paths(self):
        """The paths that both reported last."""
        said = [program.said("path") for program in (self.sender, self.receiver)]
        return tuple(paths[-1]["path"] if paths else "nothing" for paths in said)

    def upgrades(self):
        told = []
        for program in (self.sender, self.receiver):
            told += ["%.0f" % said["ms"] for said in program.said("p2p_upgrade")]
        return "upgrade after %s ms" % ", ".join(told) if told else "no upgrade"

    def fallbacks(self, since=0.0):
        """Why the direct path was given up or not found."""
        return sorted(
            {
                str(said["reason"])
                for program in (self.sender, self.receiver)
                for said in program.said("p2p_fallback", since)
            }
        )

    def judge(self, wanted, drained=1):
        """Waits for the end. The bytes must have used a `wanted` path; `drained` s later the relay forwards none."""
        if "relay" not in wanted:
            self.upgraded()
        size = self.finish()
        self.forwarded.over = True
        paths = self.paths()
        if not set(paths) <= set(wanted):
            raise Failed(
                "the bytes went %s and %s, not %s; %s; %s"
                % (*paths, " or ".join(wanted), self.upgrades(), self.fallbacks())
            )
        share = "the relay sent %.1f MiB" % (self.forwarded.since() / MIB)
        if "relay" not in wanted:
            late = self.forwarded.since(self.upgraded() + drained)
            share += ", %.2f after the upgrade" % (late / MIB)
            if late > IDLE:
                raise Failed("the relay went on to carry data: %s" % share)
        elif self.upgrades() != "no upgrade":
            raise Failed("a direct path where there can be none: %s" % self.upgrades())
        why = "".join(", %s" % reason for reason in self.fallbacks())
        return "%s over %s, %s, %s%s, %.0f MiB" % (
            paths[0],
            self.receiver.transport(),
            self.upgrades(),
            share,
            why,
            size / MIB,
        )

    def told(self, fault, healed=None):
        line = super().told(fault, healed)
        self.forwarded.over = True
        why = "".join(", %s" % reason for reason in self.fallbacks(fault))
        return "%s; %s at the end, %s%s" % (line, "/".join(self.paths()), self.upgrades(), why)


@scenario("{a}/{b}", variants=tuple({"a": a, "b": b} for a in MODES for b in MODES))
def nat(t, a, b):
    can = (a, b) not in RELAYED
    # Long enough to see that no direct path is found.
    return Meeting(t, size=16 if can else 48).start().judge(("direct",) if can else ("relay",))


@scenario("home")
def warmup(t):
    # 20 ms between the two, and the same to the relay and back.
    for host in ("alice", "bob"):
        t.netlab("link", host, "--rtt", "10ms")
    return Meeting(t).start().judge(("direct",))


@scenario("symmetric/symmetric --v6 firewall")
def v6firewall(t):
    return Meeting(t).start().judge(("direct",))


@scenario("firewall/firewall")
def firewall(t):
    return Meeting(t).start().judge(("direct",))


@scenario("{nat}/none --carol", variants=({"nat": "port-restricted"}, {"nat": "symmetric"}))
def samelan(t, nat):
    return Meeting(t, hosts=("alice", "carol")).start().judge(("direct", "lan"))


@scenario("home --overlap")
def overlap(t):
    return Meeting(t).start().judge(("direct",))


@scenario("full-cone/none --carol", variants=({"turned": "on"}, {"turned": "off"}))
def hairpin(t, turned):
    t.netlab("nat", "a", "--hairpin", turned)
    # The access point isolates its clients.
    for host, other in (("alice", "192.168.1.11"), ("carol", "192.168.1.10")):
        t.inside(host, "nft", "-f", "-", text="""
            table ip apart {
                chain out { type filter hook output priority 0; ip daddr %s drop; }
                chain in { type filter hook input priority 0; ip saddr %s drop; }
            }""" % (other, other))
    return Meeting(t, hosts=("alice", "carol"), size=16 if turned == "on" else 48).start().judge(
        ("direct",) if turned == "on" else ("relay",))


@scenario("full-cone/udp-blocked", variants=({"who": "sender"}, {"who": "receiver"}))
def udpblocked(t, who):
    hosts = ("bob", "alice") if who == "sender" else ("alice", "bob")
    return Meeting(t, size=48, hosts=hosts).start().judge(("relay",))


def wall(t, site):
    """Drops all packets between the public addresses of the two sites."""
    other = t.netlab("addr", "--public", "bob" if site == "a" else "alice").strip()
    t.inside("nat-" + site, "nft", "-f", "-", text="""
        table ip wall {
            chain in { type filter hook prerouting priority -350; ip saddr %s drop; }
            chain out { type filter hook postrouting priority 350; ip daddr %s drop; }
        }""" % (other, other))
    return time.monotonic()


def cut_off(t, transfer, site):
    """The direct path is cut, and the bytes use the relay at the end."""
    fault = wall(t, site)
    line = transfer.told(fault)
    if set(transfer.paths()) != {"relay"}:
        raise Failed("cut off, and yet %s: %s" % (transfer.paths(), line))
    if not transfer.fallbacks(fault):
        raise Failed("nobody said that the direct path was lost: %s" % line)
    return line


@scenario("home", variants=({"site": "a"}, {"site": "b"}))
def directcut(t, site):
    return cut_off(t, Meeting(t, size=48).under_way(), site)


@scenario("home", variants=({"site": "a", "transport": "auto"}, {"site": "b", "transport": "auto"}),
          alternating=({"site": "a", "transport": "tcp"}, {"site": "b", "transport": "websocket"}))
def newfloor(t, site, transport):
    leg = ["--transport", transport]
    transfer = Meeting(t, size=96, send=leg, receive=leg).under_way()
    transfer.relay.kill()
    killed = time.monotonic()
    t.sleep(1)
    t.relay(name="relay-again").wait_log("room_paired")
    found = time.monotonic() - killed
    # The bytes between the two on the cable.
    t.sleep(1)
    line = cut_off(t, transfer, site)
    if transfer.again() != (0, 0):
        raise Failed("there was a relay path, but a reconnect was reported: %s" % line)
    return "a new relay path %.1f s after the relay was killed; %s" % (found, line)


@scenario("home", variants=({"host": "alice"}, {"host": "bob"}))
def roam(t, host):
    transfer = Meeting(t, size=48).under_way()
    t.netlab("readdress", host)
    return transfer.told(time.monotonic())


@scenario("home", variants=({"site": "a", "ports": "new_ports"}, {"site": "b", "ports": "new_ports"}),
          alternating=({"site": "a", "ports": "same_ports"}, {"site": "b", "ports": "same_ports"}))
def flushnat(t, site, ports):
    transfer = Meeting(t, size=48).under_way()
    t.netlab("flush-nat", site, *(["--same-ports"] if ports == "same_ports" else []))
    return transfer.told(time.monotonic())


@scenario(
    "home",
    variants=({"host": "alice", "seconds": 5},),
    alternating=({"host": "bob", "seconds": 5}, {"host": "alice", "seconds": 40}),
)
def directcable(t, host, seconds):
    transfer = Meeting(t, size=48).under_way()
    return transfer.told(*cut(t, host, seconds))


@scenario("home", variants=(), alternating=({"signal_name": "KILL"}, {"signal_name": "TERM"}))
def directrelay(t, signal_name):
    transfer = Meeting(t, size=48).under_way()
    transfer.relay.signal(getattr(signal, "SIG" + signal_name))
    return transfer.told(time.monotonic())


@scenario("home --carol", variants=({"who": "sender"}, {"who": "receiver"}, {"who": "both"}))
def nop2p(t, who):
    args = {"send": ["--no-p2p"] if who != "receiver" else [], "receive": ["--no-p2p"] if who != "sender" else []}
    transfer = Meeting(t, hosts=("alice", "carol"), **args)
    for host, side in (("alice", "sender"), ("carol", "receiver")):
        # Who would like a direct path may ask servers and its own router what addresses it has,
        # before it knows of the other side.
        more = "" if who in (side, "both") else ", 203.0.113.20, 192.168.1.1, 239.255.255.250"
        t.inside(host, "nft", "-f", "-", text=COUNTERS.replace("!= 203.0.113.20", "!= { 203.0.113.10%s }" % more))
    line = transfer.start().judge(("relay",))
    for program in (transfer.sender, transfer.receiver):
        count = counted(t, program.host)
        if count["elsewhere"] or not count["datagrams"]:
            raise Failed("packets of the %s for others than the relay: %s" % (program.name, count))
    return "nothing left for others than the relay; %s" % line


@scenario("none/{nat}", variants=({"nat": "port-restricted"}, {"nat": "symmetric"}))
def inside(t, nat):
    """The relay inside the sender is the receiver's STUN server."""
    t.inside(
        "bob",
        "nft",
        "-f",
        "-",
        text="""
        table inet counts {
            counter asked {}
            counter answered {}
            # A STUN Binding request and its answer, by type and magic cookie.
            chain out { type filter hook output priority 0;
                @th,64,16 0x0001 @th,96,32 0x2112a442 counter name "asked"; }
            chain in { type filter hook input priority 0;
                @th,64,16 0x0101 @th,96,32 0x2112a442 counter name "answered"; }
        }""",
    )
    source = t.source(16)
    sender = t.send(source, "--limit", "4M", relays=())
    code = sender.wait("code")[1]
    receiver = t.receive(code["code"], "--yes", relays=code["relay"])
    receiver.wait("p2p_upgrade")
    codes = [program.end() for program in (receiver, sender)]
    if codes != [0, 0]:
        raise Failed("ended with %d and %d: %s" % (*codes, receiver.said("error")))
    count, size = counted(t, "bob"), t.check(source)
    if not count["answered"] or count["asked"] > 2 * count["answered"]:
        raise Failed("the sender did not tell the receiver its address: %s" % count)
    return "%d answers to %d questions, upgrade after %.0f ms, %.0f MiB" % (
        count["answered"], count["asked"], receiver.said("p2p_upgrade")[0]["ms"], size / MIB)


@scenario("{nat}", variants=({"nat": "home"}, {"nat": "hard"}))
def p2ponly(t, nat):
    transfer = Meeting(t, send=["--p2p-only"], receive=["--p2p-only"])
    if nat == "home":
        line = transfer.start().judge(("direct",))
        if transfer.forwarded.since() > IDLE:
            raise Failed("the relay carried data: %s" % line)
        return line
    transfer.start()
    codes = [program.end() for program in (transfer.sender, transfer.receiver)]
    errors = [program.said("error") for program in (transfer.sender, transfer.receiver)]
    if 0 in codes or not all(errors):
        raise Failed("no direct path, and yet %s %s" % (codes, errors))
    if transfer.forwarded.since() > IDLE:
        raise Failed("the relay carried %d bytes" % transfer.forwarded.since())
    return "ended with %d and %d: %s" % (*codes, errors[0][0].get("message"))


@scenario("home --v6 {v6}", variants=({"v6": "off"}, {"v6": "firewall"}))
def p2pport(t, v6):
    for host in ("alice", "bob"):
        t.inside(host, "nft", "-f", "-", text="""
            table inet counts {
                counter datagrams {}
                counter elsewhere {}
                chain out {
                    type filter hook output priority 0;
                    # Nor the router, which gets a request for a port mapping.
                    ip daddr { 203.0.113.10, 203.0.113.20, 239.255.255.250, 192.168.1.1, 192.168.2.1 } return
                    udp sport 45000-45009 counter name "datagrams"
                    udp sport != 45000-45009 counter name "elsewhere"
                }
            }""")
    transfer = Meeting(t, send=["--p2p-port", "45000-45009"], receive=["--p2p-port", "45009"]).start()
    transfer.upgraded()
    for host, port in (("alice", 45000), ("bob", 45009)):
        listed = [line.split() for line in t.inside(host, "ss", "-Hlntu").splitlines()]
        bound = sorted((words[0], words[4]) for words in listed if ":4500" in words[4])
        if bound != [("tcp", "*:%d" % port), ("udp", "0.0.0.0:%d" % port), ("udp", "[::]:%d" % port)]:
            raise Failed("bound: %s" % bound)
    line = transfer.judge(("direct",))
    for host in ("alice", "bob"):
        count = counted(t, host)
        if count["elsewhere"] or not count["datagrams"]:
            raise Failed("from other ports: %s" % count)
    return line
