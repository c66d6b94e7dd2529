"""A direct path that is replaced by a better one: a cable between two peers that are connected through their NATs,
and networks that lose packets."""

import time

from direct import Meeting
from lab import Failed
from scenarios import scenario


class Plug:
    """A cable from one machine to the other, with addresses of its own."""

    def __init__(self, t):
        self.t, self.ends = t, ("alice", "bob")

    def plug(self):
        spaces = [self.t.space(host) for host in self.ends]
        self.t.inside(
            "alice", "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", spaces[1]
        )
        for number, host in enumerate(self.ends, 1):
            self.t.inside(host, "ip", "addr", "add", "10.9.0.%d/24" % number, "dev", "cable")
            self.t.inside(host, "ip", "link", "set", "cable", "up")
        return time.monotonic()

    def pull(self):
        self.t.inside("alice", "ip", "link", "del", "cable")
        return time.monotonic()


def moved_to(transfer, transport, since):
    """Waits until both report this path; returns how long it took."""
    def there(said):
        return said["path"] == "direct" and said["transport"] == transport
    return max(program.wait("path", since, there)[0] for program in (transfer.sender, transfer.receiver)) - since


@scenario("home", variants=({"then": "stays"},), alternating=({"then": "pulled"}, {"then": "pulled"}))
def newcable(t, then):
    transfer = Meeting(t, size=64).under_way()
    if transfer.receiver.transport() != "quic":
        raise Failed("through the NATs by %s" % transfer.receiver.transport())
    cable = Plug(t)
    plugged = cable.plug()
    line = "on the cable after %.1f s" % moved_to(transfer, "tcp", plugged)
    if transfer.fallbacks(plugged):
        raise Failed("%s, but the relay was needed: %s" % (line, transfer.fallbacks(plugged)))
    if then == "pulled":
        transfer.until(0.4)
        pulled = cable.pull()
        line += ", through the NATs again %.1f s after it was pulled" % moved_to(transfer, "quic", pulled)
        return "%s; %s" % (line, transfer.told(pulled))
    return "%s; %s" % (line, transfer.judge(("direct",)))


def rate(program, start, end):
    """Megabytes per second between two times."""
    seen = [(at, said["bytes"]) for at, said in program.events if said["event"] == "progress" and start <= at <= end]
    if len(seen) < 2:
        return 0.0
    return (seen[-1][1] - seen[0][1]) / 1e6 / max(0.001, seen[-1][0] - seen[0][0])


@scenario("home", variants=({"size": 256},), long=({"size": 1024},), bound=240)
def midway(t, size):
    # The path to the relay is slow, and the direct one is opened after a while.
    t.netlab("link", "relay", "--rate", "100mbit")
    other = t.netlab("addr", "--public", "bob").strip()
    t.inside("nat-a", "nft", "-f", "-", text="""
        table ip wall {
            chain in { type filter hook prerouting priority -350; ip saddr %s drop; }
            chain out { type filter hook postrouting priority 350; ip daddr %s drop; }
        }""" % (other, other))
    transfer = Meeting(t, size=size, limit=None).start()
    began = transfer.receiver.wait("path")[0]
    t.sleep(4)
    t.inside("nat-a", "nft", "delete", "table", "ip", "wall")
    opened = time.monotonic()
    upgraded = transfer.upgraded()
    # Data in flight on the slow line, 32 MiB at most, still arrives over it.
    line = transfer.judge(("direct",), drained=8)
    relayed, end = rate(transfer.receiver, began, opened), transfer.receiver.wait("done")[0]
    return "relay %.1f MB/s, then %.1f MB/s; on it %.1f s after it was open; %s" % (
        relayed, rate(transfer.receiver, upgraded, end), upgraded - opened, line)


def compared(transfer):
    """The throughput on each transport in turn."""
    said = [(at, said["transport"]) for at, said in transfer.receiver.events
            if said["event"] == "path" and said["path"] == "direct"]
    ends = [at for at, _ in said[1:]] + [transfer.receiver.events[-1][0]]
    return ["%s %.1f MB/s" % (transport, rate(transfer.receiver, at, end)) for (at, transport), end in zip(said, ends)]


@scenario("port-restricted/none --carol", bound=180)
def lossylan(t):
    for host, own in (("alice", 10), ("carol", 11)):
        # The default of most systems.
        t.inside(host, "ip", "route", "change", "192.168.1.0/24", "dev", "eth0", "proto", "kernel", "scope", "link",
                 "src", "192.168.1.%d" % own, "congctl", "cubic")
        t.netlab("link", host, "--rtt", "5ms", "--loss", "1%", "--rate", "300mbit")
    transfer = Meeting(t, hosts=("alice", "carol"), size=128, limit=None).start()
    transfer.upgraded()
    line = transfer.judge(("direct",))
    if transfer.receiver.transport() != "quic":
        raise Failed("still on %s: %s; %s" % (transfer.receiver.transport(), compared(transfer), line))
    return "%s; %s" % (", ".join(compared(transfer)), line)


@scenario("port-restricted/none --carol", bound=180)
def slowlan(t):
    # No packet is lost, so both are as fast as the line, and plain TCP costs less.
    for host in ("alice", "carol"):
        t.netlab("link", host, "--rtt", "1ms", "--rate", "80mbit")
    transfer = Meeting(t, hosts=("alice", "carol"), size=192, limit=None).start()
    transfer.upgraded()
    line = transfer.judge(("direct",))
    return "%s; %s" % (", ".join(compared(transfer)), line)
