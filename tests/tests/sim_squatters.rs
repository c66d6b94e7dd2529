//! Strangers at the ports on which two peers wait for each other: they take neither the places nor the memory of the
//! right one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tallow_proto::peer::{DirectPath, Event, PathTransport};
use tallow_proto::seed::Seed;
use tallow_tests::sim::{
    Attachment, Behaviour, Conditions, Dependence, HostId, Machine, PUBLIC, Protocol, Rig, Scenario, Segment, Site,
    Squat, Squatter, World, identity,
};

const SECOND: Duration = Duration::from_secs(1);
const OPEN: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1))];
const LAN: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))];

struct Two {
    rig: Rig,
    at: [IpAddr; 2],
    segment: Segment,
    stranger: IpAddr,
}

impl Two {
    fn new(lan: bool) -> Self {
        let scenario = Scenario { files: vec![1_000_000], give_up_after: None, ..Scenario::plain(7, 0) };
        let (at, mut segment) = (if lan { LAN } else { OPEN }, PUBLIC);
        let mut rig = Rig::placed(
            &scenario,
            |send, receive| {
                for common in [&mut send.common, &mut receive.common] {
                    common.direct = Some(DirectPath::new(identity()).without_port_mapping());
                }
            },
            |world| {
                if lan {
                    let home = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
                    segment = world.add_site(PUBLIC, Site::private([10, 0, 0, 0], home, [203, 0, 113, 77]));
                }
                at.map(|ip| vec![Attachment::new(segment, ip)])
            },
        );
        // The right one is far away, and the stranger is near.
        let before = rig.world.network.default_conditions();
        for (a, b) in [(at[0], at[1]), (at[1], at[0])] {
            let latency = Duration::from_millis(100);
            rig.world.network.set(a, b, Conditions { latency, ..before });
        }
        let stranger = if lan { [10, 0, 0, 66] } else { [203, 0, 113, 66] }.into();
        Self { rig, at, segment, stranger }
    }

    fn hosts(&self) -> [HostId; 2] {
        [self.rig.sender, self.rig.receiver]
    }

    /// Over what both go directly, once they do.
    fn goes_directly(&mut self, within: Duration) -> [Option<PathTransport>; 2] {
        let hosts = self.hosts();
        let over = |world: &World, host| {
            world.said(host).find_map(|event| match event {
                Event::Upgraded { transport, .. } => Some(*transport),
                _ => None,
            })
        };
        self.rig.world.run_until(within, |world| hosts.iter().all(|&host| over(world, host).is_some()));
        hosts.map(|host| over(&self.rig.world, host))
    }

    /// The addresses of the two peers: a world with the same seed behaves the same.
    fn ports(lan: bool, transport: Protocol) -> [SocketAddr; 2] {
        let mut two = Self::new(lan);
        assert!(two.goes_directly(10 * SECOND)[0].is_some(), "nobody is in the way");
        two.rig.world.run_until(SECOND, |_| false);
        let [sender, receiver] = two.hosts();
        let reached = |from: HostId, ip: IpAddr| {
            let mut sent = two.rig.world.sent(from);
            sent.find(|(over, _, to, _)| *over == transport && to.ip() == ip).map(|(_, _, to, _)| to)
        };
        [reached(receiver, two.at[0]).expect("dialled"), reached(sender, two.at[1]).expect("dialled")]
    }

    fn squat(&mut self, target: SocketAddr, squat: Squat) -> HostId {
        let squatter = Squatter::new(target, squat, 12, Seed::new([66; 32]));
        self.rig.world.add_at(vec![Attachment::new(self.segment, self.stranger)], Machine::Other(squatter))
    }
}

#[test]
fn silent_strangers_do_not_prevent_direct_path() {
    for target in Two::ports(false, Protocol::Udp) {
        let mut two = Two::new(false);
        two.squat(target, Squat::Silent);
        assert_eq!(two.goes_directly(8 * SECOND), [Some(PathTransport::Quic); 2], "squatted: {target}");
    }
}

#[test]
fn unrequested_bytes_of_strangers_are_not_kept() {
    for target in Two::ports(false, Protocol::Udp) {
        let mut two = Two::new(false);
        let stranger = two.squat(target, Squat::Fills);
        assert_eq!(two.goes_directly(8 * SECOND), [Some(PathTransport::Quic); 2], "squatted: {target}");
        let sent = two.rig.world.sent_to(stranger, target.ip()).bytes;
        assert!(sent < 1 << 20, "{sent} bytes to {target}");
    }
}

#[test]
fn silent_tcp_connections_do_not_exclude_the_peer() {
    let targets = Two::ports(true, Protocol::Syn);
    let mut two = Two::new(true);
    for (number, target) in targets.into_iter().enumerate() {
        two.stranger = [10, 0, 0, 66 + number as u8].into();
        two.squat(target, Squat::Tcp);
    }
    assert_eq!(two.goes_directly(8 * SECOND), [Some(PathTransport::Tcp); 2]);
}
