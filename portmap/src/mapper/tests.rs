use proptest::prelude::*;

use super::*;
use crate::simulation::{GATEWAY, LOCAL, Manner, OUTSIDE, World, interface, natpmp_address, pcp_answer};

const BOTH: [Protocol; 2] = [Protocol::Pcp, Protocol::NatPmp];
const HOME: IpAddr = IpAddr::V4(*GATEWAY.ip());

fn outside(port: u16) -> SocketAddr {
    SocketAddr::new(OUTSIDE.into(), port)
}

fn mapped(world: &mut World, port: u16) {
    assert_eq!(std::mem::take(&mut world.events), [Event::Mapped(outside(port))]);
    assert_eq!(world.map.mapped(), Some(outside(port)));
}

#[test]
fn pcp_is_preferred_over_natpmp_and_maps_once() {
    let mut world = World::started(Manner::Grants, Manner::Grants, &BOTH);
    world.run_ms(9000);
    mapped(&mut world, 5001);
    assert_eq!(world.map.protocol(), Some(Protocol::Pcp));
    assert_eq!(world.gateway.held.len(), 1);
    assert_eq!(world.sent.len(), 2, "a mapping, and NAT-PMP's address");
    assert!(world.sent.iter().all(|(at, _)| *at == 0));
}

#[test]
fn natpmp_maps_at_once_or_500_ms_after_silent_pcp() {
    for (pcp, at_least) in
        [(Manner::Unsupported, 0), (Manner::Refuses, 0), (Manner::Silent, 500), (Manner::Garbage, 500)]
    {
        let mut world = World::started(pcp, Manner::Grants, &BOTH);
        world.run_ms(at_least + 10);
        mapped(&mut world, 5001);
        assert_eq!(world.map.protocol(), Some(Protocol::NatPmp));
        let (at, _) = world.sent.iter().find(|(_, out)| out.data[..2] == [0, 1]).unwrap();
        assert!((at_least.into()..u128::from(at_least) + 5).contains(at), "{at}");
    }
}

#[test]
fn duplicate_mapping_is_released_once() {
    // PCP answers after the NAT-PMP request and before the NAT-PMP answer; and the other way round.
    for (pcp, natpmp) in [(Manner::GrantsLate(510), Manner::GrantsLate(20)), (Manner::GrantsLate(700), Manner::Grants)]
    {
        let mut world = World::started(pcp, natpmp, &BOTH);
        world.run_ms(9000);
        assert_eq!(world.gateway.held.len(), 1, "{pcp:?} {natpmp:?}");
        let held = world.gateway.held[0];
        mapped(&mut world, held.external);
        assert_eq!(world.map.protocol(), Some(held.by));
    }
}

#[test]
fn silent_gateway_is_retried_and_queried_again_after_pause() {
    let mut world = World::started(Manner::Silent, Manner::Silent, &BOTH);
    world.run(ATTEMPT_WITHIN);
    assert_eq!(world.sent.len(), 12);
    assert!(world.sent.iter().all(|(at, _)| *at < ATTEMPT_WITHIN.as_millis()));
    world.run(RETRY_AFTER - Duration::from_millis(1));
    assert_eq!(world.sent.len(), 12);
    world.gateway.pcp = Manner::Grants;
    world.run_ms(10);
    mapped(&mut world, 5001);
}

#[test]
fn a_mapping_is_renewed_at_half_its_lifetime() {
    for (pcp, natpmp) in [(Manner::Grants, Manner::Silent), (Manner::Unsupported, Manner::Grants)] {
        let mut world = World::started(pcp, natpmp, &BOTH);
        world.gateway.lifetime = 600;
        world.run_ms(10);
        mapped(&mut world, 5001);
        let before = world.sent.len();
        world.run(Duration::from_secs(298));
        assert_eq!(world.sent.len(), before);
        world.run(Duration::from_secs(6000));
        assert_eq!(world.gateway.held.len(), 1);
        assert_eq!(world.events, []);
        assert_eq!(world.map.mapped(), Some(outside(5001)));
        // Twenty renewals, with two NAT-PMP requests each.
        assert!(world.sent.len() - before <= 42, "{}", world.sent.len());
    }
}

#[test]
fn changed_external_address_is_reported_on_renewal() {
    let mut world = World::started(Manner::Grants, Manner::Silent, &BOTH);
    world.run_ms(10);
    mapped(&mut world, 5001);
    world.gateway.outside = Ipv4Addr::new(203, 0, 113, 77);
    world.run(Duration::from_secs(1801));
    assert_eq!(world.events, [Event::Mapped("203.0.113.77:5001".parse().unwrap())]);
    // A grant that cannot be used.
    world.events.clear();
    world.gateway.outside = Ipv4Addr::new(100, 70, 0, 1);
    world.run(Duration::from_secs(1801));
    assert_eq!(world.events, [Event::Lost, Event::DoubleNat(world.gateway.outside)]);
    assert_eq!(world.gateway.held, []);
    assert_eq!(world.map.mapped(), None);
}

#[test]
fn restarted_gateway_is_asked_for_new_mapping() {
    let mut world = World::started(Manner::Grants, Manner::Silent, &BOTH);
    world.run_ms(10);
    mapped(&mut world, 5001);
    world.run(Duration::from_secs(1000));
    world.gateway.zero = world.now;
    world.gateway.held.clear();
    world.gateway.pcp = Manner::Refuses;
    world.gateway.natpmp = Manner::Grants;
    world.run(Duration::from_secs(801));
    assert_eq!(world.events, [Event::Lost, Event::Mapped(outside(5002))]);
    assert_eq!(world.map.protocol(), Some(Protocol::NatPmp));
}

#[test]
fn unrenewed_mapping_lasts_its_granted_lifetime() {
    let mut world = World::started(Manner::Grants, Manner::Silent, &BOTH);
    world.gateway.lifetime = 600;
    world.run_ms(10);
    mapped(&mut world, 5001);
    world.gateway.pcp = Manner::Silent;
    world.run(Duration::from_secs(599));
    assert_eq!(world.events, []);
    let asked = world.sent.len();
    assert!(asked < 60, "{asked}");
    world.run(Duration::from_secs(2));
    assert_eq!(world.events, [Event::Lost]);
    assert_eq!(world.map.mapped(), None);
    // The gateway answers again.
    world.events.clear();
    world.gateway.pcp = Manner::Grants;
    world.run(Duration::from_secs(5));
    mapped(&mut world, 5002);
}

#[test]
fn mapping_is_renewed_after_system_sleep() {
    let mut world = World::started(Manner::Grants, Manner::Silent, &BOTH);
    world.run_ms(10);
    mapped(&mut world, 5001);
    world.gateway.held.clear();
    world.map.handle_resume(world.now);
    world.run_ms(10);
    mapped(&mut world, 5002);
}

#[test]
fn double_nat_keeps_no_mapping_and_is_reported_once() {
    for (pcp, natpmp) in [(Manner::Grants, Manner::Grants), (Manner::Unsupported, Manner::Grants)] {
        let mut world = World::started(pcp, natpmp, &BOTH);
        world.gateway.outside = Ipv4Addr::new(10, 1, 2, 3);
        world.run_ms(2000);
        assert_eq!(world.events, [Event::DoubleNat(world.gateway.outside)]);
        assert_eq!(world.gateway.held, []);
        world.run(RETRY_AFTER * 3);
        assert_eq!(world.events.len(), 1);
        world.gateway.outside = OUTSIDE;
        world.events.clear();
        world.run(RETRY_AFTER);
        assert!(matches!(world.events[..], [Event::Mapped(_)]));
    }
}

#[test]
fn release_deletes_mapping_and_ends_with_the_answer() {
    for (pcp, natpmp) in [(Manner::Grants, Manner::Grants), (Manner::Unsupported, Manner::Grants)] {
        let mut world = World::started(pcp, natpmp, &BOTH);
        world.run_ms(50);
        world.events.clear();
        assert!(!world.map.is_released());
        world.map.release(world.now);
        world.map.release(world.now);
        assert!(!world.map.is_released());
        world.run_ms(10);
        assert!(world.map.is_released());
        assert_eq!(world.gateway.held, []);
        assert!(matches!(world.actions[..], [Action::OpenSocket, Action::CloseSocket]));
        assert_eq!(std::mem::take(&mut world.events), [Event::Lost]);
        world.run(RETRY_AFTER * 2);
        assert_eq!(world.map.poll_timeout(), None);
        // The same from the start.
        world.map.start(world.now, 40_001);
        world.run_ms(10);
        mapped(&mut world, 5002);
    }
}

#[test]
fn unanswered_release_ends_after_100_ms() {
    let mut world = World::started(Manner::Grants, Manner::Silent, &BOTH);
    world.run_ms(10);
    world.gateway.pcp = Manner::Silent;
    world.map.release(world.now);
    world.run_ms(99);
    assert!(!world.map.is_released());
    world.run_ms(1);
    assert!(world.map.is_released());
}

#[test]
fn release_does_not_wait_for_silent_gateway() {
    for at in [10, 300, 1_500, 5_000, 12_000] {
        let mut world = World::started(Manner::Silent, Manner::Silent, &BOTH);
        world.run_ms(at);
        let sent = world.sent.len();
        world.map.release(world.now);
        world.run_ms(1);
        assert!(world.map.is_released(), "after {at} ms");
        // The gateway may be slow and not silent: one request deletes what it may still grant.
        assert!(world.sent.len() <= sent + 2, "after {at} ms");
        world.run_ms(5_000);
        assert!(world.sent.len() <= sent + 2 && world.map.poll_timeout().is_none());
    }
}

#[test]
fn release_does_not_wait_for_silent_protocol() {
    let mut world = World::started(Manner::Silent, Manner::Grants, &BOTH);
    world.run_ms(600);
    mapped(&mut world, 5001);
    assert_eq!(world.map.pending_releases.len(), 1);
    world.map.release(world.now);
    world.run_ms(10);
    assert!(world.map.is_released());
    assert_eq!(world.gateway.held, []);
}

#[test]
fn release_during_request_deletes_late_mapping() {
    let mut world = World::started(Manner::GrantsLate(300), Manner::Silent, &BOTH);
    world.run_ms(100);
    world.map.release(world.now);
    world.run_ms(1000);
    assert!(world.map.is_released());
    assert_eq!((world.gateway.held.len(), world.events.len()), (0, 0));
    // Nothing was requested yet.
    let mut world = World::new(Manner::Grants, Manner::Grants, &BOTH);
    assert!(world.map.is_released());
    world.map.start(world.now, 1);
    assert!(!world.map.is_released());
    world.map.release(world.now);
    assert!(world.map.is_released() && world.map.poll_action().is_none());
}

#[test]
fn changed_gateway_is_asked_at_once() {
    let mut world = World::started(Manner::Silent, Manner::Silent, &BOTH);
    world.run(Duration::from_secs(60));
    let asked = world.sent.len();
    // Inputs that change nothing.
    world.map.handle_interfaces(world.now, &[interface(Ipv4Addr::new(10, 0, 0, 1)), interface(LOCAL)]);
    world.map.handle_gateways(world.now, &[HOME, "fe80::1".parse().unwrap()]);
    world.run_ms(10);
    assert_eq!(world.sent.len(), asked);
    world.map.handle_gateways(world.now, &[]);
    world.run_ms(10);
    world.gateway.pcp = Manner::Grants;
    world.map.handle_gateways(world.now, &[HOME]);
    world.run_ms(10);
    mapped(&mut world, 5001);
    // In another network: the mapping at the old gateway is deleted, if the request still arrives.
    world.map.handle_gateways(world.now, &[]);
    world.run_ms(10);
    assert_eq!((&world.events[..], world.map.mapped()), (&[Event::Lost][..], None));
    assert_eq!(world.gateway.held, []);
    assert!(!world.map.is_released());
}

#[test]
fn forged_answers_are_ignored() {
    let mut world = World::started(Manner::GrantsLate(400), Manner::Silent, &BOTH);
    world.run_ms(10);
    let request = world.sent[0].1.data.clone();
    let forged = pcp_answer(&request, 0, 3600, 1, OUTSIDE, 6666);
    world.inject("192.168.1.3:5351".parse().unwrap(), &forged);
    world.inject("192.168.1.1:5352".parse().unwrap(), &forged);
    world.inject("[fe80::1]:5351".parse().unwrap(), &forged);
    let mut without_nonce = forged.clone();
    without_nonce[24..36].fill(0);
    world.inject(GATEWAY.into(), &without_nonce);
    world.inject("192.168.1.3:5351".parse().unwrap(), &natpmp_address(0, 1, Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(world.events, []);
    world.run_ms(800);
    mapped(&mut world, 5001);
    // The address form of a dual-stack socket.
    let mut world = World::started(Manner::Silent, Manner::Silent, &BOTH);
    world.run_ms(10);
    let request = world.sent[0].1.data.clone();
    let answer = pcp_answer(&request, 0, 3600, 1, OUTSIDE, 7777);
    world.inject("[::ffff:192.168.1.1]:5351".parse().unwrap(), &answer);
    mapped(&mut world, 7777);
}

#[test]
fn failed_bind_is_not_retried() {
    let mut world = World::new(Manner::Grants, Manner::Grants, &BOTH);
    world.bind_fails = true;
    world.map.handle_interfaces(world.now, &[interface(LOCAL)]);
    world.map.handle_gateways(world.now, &[HOME]);
    world.map.start(world.now, 40_000);
    world.run(RETRY_AFTER * 2);
    assert_eq!((world.actions.len(), world.sent.len()), (1, 0));
    world.map.release(world.now);
    assert!(world.map.is_released());
}

fn any_manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Silent),
        Just(Manner::Unsupported),
        Just(Manner::Refuses),
        Just(Manner::Garbage),
        Just(Manner::Grants),
        (0..6000_u64).prop_map(Manner::GrantsLate),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Run(u64),
    Manners(Manner, Manner),
    Reboot,
    Outside(Ipv4Addr),
    Lifetime(u32),
    Gateways(bool),
    Start(u16),
    Release,
    Slept,
    Bytes(bool, Vec<u8>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![Just(OUTSIDE), any::<u32>().prop_map(Ipv4Addr::from)];
    let bytes = (0..3_usize, prop::collection::vec(any::<u8>(), 0..70)).prop_map(|(begin, rest)| {
        [[&[2_u8, 0x81, 0, 0][..], &[0, 0x80, 0, 0], &[0, 0x81, 0, 0]][begin], &rest].concat()
    });
    prop_oneof![
        4 => (0..2_000_000_u64).prop_map(Step::Run),
        4 => (0..2000_u64).prop_map(Step::Run),
        2 => (any_manner(), any_manner()).prop_map(|(pcp, natpmp)| Step::Manners(pcp, natpmp)),
        1 => Just(Step::Reboot),
        1 => address.prop_map(Step::Outside),
        1 => (0..100_000_u32).prop_map(Step::Lifetime),
        1 => any::<bool>().prop_map(Step::Gateways),
        2 => (1..4_u16).prop_map(Step::Start),
        1 => Just(Step::Release),
        1 => Just(Step::Slept),
        2 => (any::<bool>(), bytes).prop_map(|(gateway, bytes)| Step::Bytes(gateway, bytes)),
    ]
}

proptest! {
    #[test]
    fn mapper_keeps_its_bounds_for_any_gateway(
        manners in (any_manner(), any_manner()),
        steps in prop::collection::vec(any_step(), 1..20),
    ) {
        let mut world = World::started(manners.0, manners.1, &BOTH);
        let mut known = None;
        for step in steps {
            match step {
                Step::Run(ms) => world.run_ms(ms),
                Step::Manners(pcp, natpmp) => (world.gateway.pcp, world.gateway.natpmp) = (pcp, natpmp),
                Step::Reboot => {
                    world.gateway.zero = world.now;
                    world.gateway.held.clear();
                }
                Step::Outside(address) => world.gateway.outside = address,
                Step::Lifetime(lifetime) => world.gateway.lifetime = lifetime,
                Step::Gateways(here) => world.map.handle_gateways(world.now, if here { &[HOME] } else { &[] }),
                Step::Start(port) => world.map.start(world.now, port),
                Step::Release => world.map.release(world.now),
                Step::Slept => world.map.handle_resume(world.now),
                Step::Bytes(gateway, bytes) => {
                    let from = if gateway { GATEWAY.into() } else { SocketAddr::from(([192, 168, 1, 9], 5351)) };
                    world.inject(from, &bytes);
                }
            }
            world.run_ms(0);
            for event in world.events.drain(..) {
                match event {
                    Event::Mapped(addr) => known = Some(addr),
                    Event::Lost => prop_assert!(known.take().is_some(), "only a reported mapping is lost"),
                    Event::DoubleNat(ip) => prop_assert!(!crate::client::is_public(ip)),
                }
            }
            prop_assert_eq!(known, world.map.mapped());
            prop_assert!(world.map.pending_releases.len() <= MAX_PENDING_RELEASES);
        }
        // Twelve datagrams for each attempt every five minutes, plus renewals and deletions.
        let hours = world.at() as usize / 3_600_000 + 1;
        prop_assert!(world.sent.len() < 2000 * hours, "{} in {hours} h", world.sent.len());
        world.map.release(world.now);
        world.run_ms(1000);
        prop_assert!(world.map.is_released());
    }
}
