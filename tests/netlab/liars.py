"""A peer that has the code and sends false addresses (rows K): the kernel counts the packets that the real
program sends because of them."""

import ipaddress
import json
import os

from lab import PORT, Failed
from scenarios import scenario

RELAY = "203.0.113.10"
CODE = "777-acorn-bicycle-canal"
# All sent UDP and TCP packets on all interfaces, by destination.
LEAVES = """
table inet leaves {
    set v4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 65535; counter; }
    set v6 { type ipv6_addr . inet_proto . inet_service; flags dynamic; size 65535; counter; }
    chain out {
        type filter hook output priority 0;
        meta l4proto { tcp, udp } update @v4 { ip daddr . meta l4proto . th dport }
        meta l4proto { tcp, udp } update @v6 { ip6 daddr . meta l4proto . th dport }
    }
}
"""
# Unused but valid addresses: packets to them show that candidates are tried.
GOOD = ("udp 203.0.113.99:5000", "udp [2001:db8:77::99]:5000")
GOOD_TCP = "tcp 192.168.1.77:5000"
# For some of these the system itself refuses to send. The simulator (sim_candidates) checks which of them are tried.
DENIED = tuple("udp " + at for at in (
    "127.0.0.1:5000", "127.1.2.3:5000", "0.0.0.0:5001", "0.1.2.3:5000", "[::1]:5000", "[::]:5001",
    "169.254.169.254:5000", "169.254.169.254:80", "224.0.0.1:5000", "239.255.255.250:1900", "255.255.255.255:5000",
    "240.0.0.1:5000", "192.168.1.255:5000", "192.168.1.0:5000", "192.168.1.10:0", "192.168.1.1:0", "203.0.113.98:0",
    "192.168.1.1:22", "192.168.1.1:25", "192.168.1.1:53", "192.168.1.1:80", "192.168.1.1:443", "192.168.1.1:1023",
    "10.0.0.1:22", "10.0.0.1:25", "10.0.0.1:53", "172.16.0.1:80", "172.16.0.1:443", "198.51.100.7:53",
    "198.51.100.7:443", "[fe80::1]:5000", "[ff02::1]:5000", "[ff05::2]:5000", "[::ffff:127.0.0.1]:5002",
    "[::ffff:192.168.1.255]:5002", "[::ffff:192.168.1.1]:81", "[::127.0.0.1]:5000", "[64:ff9b::7f00:1]:5000",
    "[2002:7f00:1::1]:5000", "[2001:db8:77::98]:443",
)) + tuple("tcp " + at for at in (
    "198.51.100.7:5000", "192.168.2.1:5000", "10.0.0.1:5000", "127.0.0.1:5003", "[::1]:5003", "0.0.0.0:5004",
    "169.254.169.254:80", "192.168.1.255:5000", "192.168.1.1:22", "192.168.1.1:443", "[2001:db8:77::98]:5000",
))
PRIVATE = tuple(carrier + at for carrier in ("udp ", "tcp ") for at in (
    "10.0.0.5:5000", "172.16.0.5:5000", "192.168.1.5:5000", "100.64.0.5:5000", "[fd00::5]:5000",
    "[::ffff:10.0.0.5]:5001"))
# The limits for one address and for all addresses together: datagrams, and the bytes in them.
ONE = (20, 24 << 10)
ALL = (100, 120 << 10)


def key(candidate):
    """A candidate in the form of the counters."""
    carrier, at = candidate.split(" ")
    ip, port = at.rsplit(":", 1)
    ip = ipaddress.ip_address(ip.strip("[]"))
    ip = getattr(ip, "ipv4_mapped", None) or ip
    # A packet to the unspecified address goes to this machine.
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return carrier, str(ip), int(port)


def left(t, host):
    """What left `host` for others than the relay: packets, and the bytes in them without their
    headers, by carrier, address and port."""
    sent, relay = {}, 0
    for name, header in (("v4", 20), ("v6", 40)):
        listed = json.loads(t.inside(host, "nft", "-j", "list", "set", "inet", "leaves", name))["nftables"]
        for each in next(part["set"] for part in listed if "set" in part).get("elem", ()):
            ip, carrier, port = each["elem"]["val"]["concat"]
            packets, size = each["elem"]["counter"]["packets"], each["elem"]["counter"]["bytes"]
            # A service may be listed by its number or its protocol's.
            carrier = {6: "tcp", 17: "udp"}.get(carrier, carrier)
            if (ip, port) == (RELAY, PORT):
                relay += packets
            # The multicast DNS query of a receiver that searches for a sender in its network.
            elif (ip, port) != ("224.0.0.251", 5353):
                sent[carrier, ip, port] = (packets, size - packets * (header + (8 if carrier == "udp" else 0)))
    if not relay:
        raise Failed("the counters count nothing")
    return sent


class Lies:
    """The real program at alice, and a malicious peer at bob that sends these candidates in one round after another."""

    def __init__(self, t, honest, rounds, pause, manner=None, args=()):
        self.t, self.honest, code = t, honest, CODE
        t.inside("alice", "nft", "-f", "-", text=LEAVES)
        t.relay()
        args = args or ["--no-port-map"]
        if honest == "sender":
            self.program = t.send(t.source(1), *args)
            code = self.program.wait("code")[1]["code"]
            if manner == "early":
                code = code.split("-")[0] + "-wrong-words-said"
        lies = os.path.join(t.dir, "lies")
        with open(lies, "w") as f:
            f.write("\n".join("".join("host %s\n" % each for each in some) for some in rounds))
        liar = os.path.join(os.path.dirname(t.tallow), "lying_candidates")
        if not os.path.exists(liar):
            raise Failed("there is no %s: cargo build --workspace comes first" % liar)
        side = "receive" if honest == "sender" else "send"
        self.liar = t.start(
            "bob", "liar", [liar, side, code, "%s:%d" % (RELAY, PORT), lies, str(pause), *([manner] if manner else [])]
        )
        if honest == "receiver":
            wrong = CODE.replace("acorn", "wrong") if manner == "early" else CODE
            self.program = t.receive(wrong, "--yes", *args, host="alice")

    def over(self):
        """The packets sent because of them."""
        self.liar.wait("over")
        sent = left(self.t, "alice")
        self.t.sleep(2)
        later = left(self.t, "alice")
        if later != sent:
            raise Failed("packets left when it was over: %s, and then %s" % (sent, later))
        if self.program.process.poll() is not None or self.program.said("error"):
            raise Failed("the %s ended: %s" % (self.honest, self.program.said("error")))
        return sent


def denied(t, honest, lies, good):
    # In several rounds, because one round tries only a few of one address, and a few by TCP.
    rounds = [(*lies[start::4], *good) for start in range(4)]
    sent = Lies(t, honest, rounds, 2500).over()
    for each in lies:
        if key(each) in sent:
            raise Failed("%d packets to %s" % (sent[key(each)][0], each))
    for each in good:
        if key(each) not in sent:
            raise Failed("nothing was sent to %s, with which nothing is wrong: %s" % (each, sent))
    if len(sent) != len(good):
        raise Failed("packets to others: %s" % sent)
    return "0 packets to each of %d; %s" % (
        len(lies),
        ", ".join("%d to %s" % (sent[key(each)][0], each) for each in good),
    )


SIDES = ({"honest": "sender"}, {"honest": "receiver"})


@scenario("port-restricted/none --v6 firewall", variants=SIDES)
def liar_denied(t, honest):
    return denied(t, honest, DENIED, (*GOOD, GOOD_TCP))


@scenario("none/none --v6 open", variants=SIDES)
def liar_private(t, honest):
    return denied(t, honest, PRIVATE, GOOD)


def many(count):
    return tuple(
        "udp 198.18.%d.%d:5000" % divmod(n, 256) if n % 2 else "udp [2001:db8:78::%x]:5000" % n for n in range(count)
    )


VICTIMS = {
    # What is said, how often, and for how long each time, in milliseconds; the program itself ends a round after 10 s.
    "many": (many(10_000), 1, 12_000),
    "copies": (("udp 203.0.113.99:5000",) * 64, 12, 700),
    "ports": (tuple("udp 203.0.113.99:%d" % port for port in range(5000, 5064)), 12, 700),
    "rounds": (many(200), 12, 700),
    "tcp": (tuple("tcp 192.168.1.11:%d" % port for port in range(5000, 5064)), 2, 12_000),
}


@scenario(
    "port-restricted/none --v6 firewall --carol",
    variants=tuple({"what": what, **side} for what in VICTIMS for side in SIDES),
)
def liar_victims(t, what, honest):
    said, count, pause = VICTIMS[what]
    # A neighbour that exists but does not answer: the system repeats its requests.
    t.inside(
        "carol", "nft", "add table ip deaf; add chain ip deaf in { type filter hook input priority 0; policy drop; }"
    )
    sent = Lies(t, honest, [said] * count, pause).over()
    victims = {}
    for (_, ip, _), (packets, size) in sent.items():
        had = victims.get(ip, (0, 0))
        victims[ip] = (had[0] + packets, had[1] + size)
    every = tuple(map(sum, zip(*victims.values()))) if victims else (0, 0)
    if not victims:
        raise Failed("nothing was tried")
    most = max(victims.values())
    line = "%d candidates, %d rounds: %d addresses got %d datagrams, %.1f KiB; one of them %d, %.1f KiB" % (
        len(said), count, len(victims), every[0], every[1] / 1024, most[0], most[1] / 1024)
    if any(got > limit for victim in victims.values() for got, limit in zip(victim, ONE)):
        raise Failed("too much to one: %s" % line)
    if any(got > limit for got, limit in zip(every, ALL)):
        raise Failed("too much in all: %s" % line)
    return line


@scenario("port-restricted/none --v6 firewall", variants=SIDES)
def liar_unproven(t, honest):
    lies = Lies(t, honest, [GOOD], 1000, manner="early")
    if honest == "sender":
        lies.program.wait("wrong_guess")
    else:
        lies.program.end()
    sent = left(t, "alice")
    if sent:
        raise Failed("packets left for one who proved nothing: %s" % sent)
    return "nothing left; %s" % [said["event"] for _, said in lies.program.events]


@scenario("port-restricted/none --v6 firewall", variants=SIDES)
def liar_nop2p(t, honest):
    lies = Lies(t, honest, [(*GOOD, GOOD_TCP)], 1000, manner="first", args=["--no-p2p"])
    lies.liar.wait("keyed")
    t.sleep(4)
    sent = left(t, "alice")
    if sent or lies.program.process.poll() is not None or lies.program.said("error"):
        raise Failed("sent %s, said %s" % (sent, lies.program.said("error")))
    return "nothing left, and it goes on"
