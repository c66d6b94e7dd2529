use std::net::SocketAddr;

use proptest::prelude::*;
use rand_core::SeedableRng;

use super::*;
use crate::simulation::{self, GATEWAY, LOCAL, LOCATION, Manner, OUTSIDE, TARGET, World, description, interface};
use crate::{ATTEMPT_WITHIN, Event, RETRY_AFTER, UPNP_AFTER};

const UPNP: [Protocol; 1] = [Protocol::Upnp];
const ALL: [Protocol; 3] = [Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp];

/// A world whose gateway supports only UPnP.
fn world(protocols: &[Protocol]) -> World {
    let mut world = World::started(Manner::Silent, Manner::Silent, protocols);
    world.igd.location = Some(LOCATION.to_owned());
    world
}

fn outside(port: u16) -> SocketAddr {
    SocketAddr::new(OUTSIDE.into(), port)
}

fn mapped(world: &mut World, port: u16) {
    assert_eq!(std::mem::take(&mut world.events), [Event::Mapped(outside(port))], "{:?}", world.igd.asked);
    assert_eq!(world.map.protocol(), Some(Protocol::Upnp));
}

#[test]
fn upnp_mapping_is_requested_renewed_and_deleted() {
    for chunked in [false, true] {
        let mut world = world(&UPNP);
        world.igd.chunked = chunked;
        world.run_ms(200);
        mapped(&mut world, TARGET.internal_port);
        assert_eq!(world.igd.mappings, [(TARGET.internal_port, TARGET.internal_port, 3600)]);
        let first = ["GET /desc.xml HTTP/1.1", "GetExternalIPAddress", "AddPortMapping"];
        assert_eq!(std::mem::take(&mut world.igd.asked), first);
        world.igd.address = "203.0.113.6".to_owned();
        world.run(Duration::from_secs(1799));
        assert!(world.igd.asked.is_empty());
        world.run(Duration::from_secs(2));
        assert_eq!(std::mem::take(&mut world.igd.asked), first[1..]);
        assert_eq!(world.events, [Event::Mapped("203.0.113.6:40000".parse().unwrap())]);
        world.map.release(world.now);
        assert!(!world.map.is_released());
        world.run_ms(10);
        assert!(world.map.is_released());
        assert_eq!((&world.igd.mappings[..], &world.igd.asked[..]), (&[][..], &["DeletePortMapping".to_owned()][..]));
        // No connection is left open, and every TCP connection was closed after its response.
        let count = |wanted: fn(&Action) -> bool| world.actions.iter().filter(|&action| wanted(action)).count();
        assert_eq!(count(|action| matches!(action, Action::Connect(..))), 6);
        assert_eq!(count(|action| matches!(action, Action::Close(..))), 6);
        assert_eq!(world.max_tcp_connections, 1);
    }
}

#[test]
fn upnp_starts_after_pcp_and_natpmp_fail() {
    let mut silent = world(&ALL);
    silent.run(UPNP_AFTER - Duration::from_millis(1));
    assert!(silent.sent.iter().all(|(_, out)| out.to == GATEWAY.into()));
    silent.run_ms(150);
    mapped(&mut silent, TARGET.internal_port);
    let mut refused = World::started(Manner::Unsupported, Manner::Refuses, &ALL);
    refused.igd.location = Some(LOCATION.to_owned());
    refused.run_ms(150);
    mapped(&mut refused, TARGET.internal_port);
    // UPnP is not tried if it is not needed.
    let mut quick = World::started(Manner::Grants, Manner::Silent, &ALL);
    quick.igd.location = Some(LOCATION.to_owned());
    quick.run(ATTEMPT_WITHIN);
    assert!(quick.igd.asked.is_empty() && quick.sent.iter().all(|(_, out)| out.to.port() != ssdp::PORT));
}

#[test]
fn late_pcp_mapping_is_released() {
    let mut world = world(&ALL);
    world.gateway.pcp = Manner::GrantsLate(1500);
    world.run(ATTEMPT_WITHIN);
    mapped(&mut world, TARGET.internal_port);
    assert_eq!(world.gateway.held, []);
    // The mapping that UPnP may have created before PCP succeeded is deleted too, if it has another port.
    for (port, left) in [(6000, 0), (TARGET.internal_port, 1)] {
        let mut upnp = talking();
        assert_eq!(upnp.held.as_ref().map(|held| held.wish.external), Some(TARGET.internal_port));
        let now = upnp.started;
        upnp.withdraw(now, Some(SocketAddrV4::new(OUTSIDE, port)));
        assert_eq!(usize::from(upnp.is_finished()), left);
        assert!(matches!(upnp.poll_close(), Some(Action::Abort(_))), "the TCP connection of the request");
    }
}

/// A client that has requested a mapping and has no answer yet.
fn talking() -> Upnp {
    let now = Instant::now();
    let gateway = Gateway::Known { address: *GATEWAY.ip(), local: LOCAL };
    let mut upnp = Upnp::new(now, gateway, TARGET.internal_port, "test", ChaCha20Rng::from_seed([1; 32]));
    let control = Url::parse("http://192.168.1.1/ctl", *GATEWAY.ip()).unwrap();
    upnp.handle_address(now, Service { kind: Kind::Ip1, control }, OUTSIDE);
    assert!(upnp.poll_connect(ConnectionId(9)).is_some() && upnp.poll_connect(ConnectionId(10)).is_none());
    upnp
}

#[test]
fn ssdp_search_is_sent_four_times_per_attempt() {
    let mut world = World::started(Manner::Silent, Manner::Silent, &UPNP);
    world.run(RETRY_AFTER - Duration::from_millis(1));
    let times: Vec<u128> = world.sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 0, 500, 500, 1500, 1500, 3000, 3000]);
    assert!(world.sent.iter().all(|(_, out)| out.from == Some(LOCAL.into())));
    assert_eq!(world.sent[0].1.to, "239.255.255.250:1900".parse().unwrap());
    assert_eq!(world.sent[1].1.to, "192.168.1.1:1900".parse().unwrap());
    // A second time.
    world.igd.location = Some(LOCATION.to_owned());
    world.run(Duration::from_secs(5));
    mapped(&mut world, TARGET.internal_port);
}

#[test]
fn upnp_errors_are_worked_around() {
    for (version, errors, has_leases, expected) in [
        (1, &[][..], false, (TARGET.internal_port, 0)),
        (1, &[718, 718][..], true, (0, 3600)),
        (1, &[724][..], true, (0, 0)),
        (1, &[402][..], true, (TARGET.internal_port, 0)),
        (2, &[][..], true, (TARGET.internal_port, 3600)),
        (2, &[401][..], true, (TARGET.internal_port, 3600)),
        (2, &[602][..], false, (TARGET.internal_port, 0)),
        (1, &[401][..], true, (0, 0)),
        (1, &[501][..], true, (0, 0)),
        (1, &[718, 718, 718, 718][..], true, (0, 0)),
    ] {
        let mut world = world(&UPNP);
        world.igd.description = description(&[&format!("WANIPConnection:{version}")]);
        (world.igd.errors, world.igd.has_leases) = (errors.to_vec(), has_leases);
        world.run(ATTEMPT_WITHIN);
        let Some(&(external, internal, lease)) = world.igd.mappings.first() else {
            assert_eq!((expected, &world.events[..]), ((0, 0), &[][..]), "{errors:?}");
            continue;
        };
        assert_eq!((internal, lease), (TARGET.internal_port, expected.1), "{errors:?}");
        if expected.0 == 0 {
            assert!(external != TARGET.internal_port && external >= OTHER_PORTS, "{external}");
        } else {
            assert_eq!(external, expected.0);
        }
        mapped(&mut world, external);
    }
}

#[test]
fn a_version_2_gateway_may_choose_the_port() {
    let mut world = world(&UPNP);
    world.igd.description = description(&["WANIPConnection:1", "WANIPConnection:2"]);
    world.igd.chooses = Some(50_505);
    world.run_ms(200);
    mapped(&mut world, 50_505);
    assert_eq!(world.igd.asked[2], "AddAnyPortMapping");
    // The renewal requests the chosen port.
    world.run(Duration::from_secs(1801));
    assert_eq!(world.igd.mappings.len(), 1);
    assert_eq!(world.igd.asked[4], "AddPortMapping");
    assert_eq!(world.events, []);
    // A port that cannot be used is released.
    let mut world = self::world(&UPNP);
    world.igd.description = description(&["WANIPConnection:2"]);
    world.igd.chooses = Some(80);
    world.run_ms(200);
    assert_eq!((world.igd.mappings.len(), world.events.len()), (0, 0));
    assert_eq!(world.igd.asked[3], "DeletePortMapping");
}

#[test]
fn service_without_external_address_is_skipped() {
    let mut world = world(&UPNP);
    world.igd.description = description(&["WANPPPConnection:1", "WANIPConnection:1", "WANIPConnection:3"]);
    world.igd.address = String::new();
    world.run(ATTEMPT_WITHIN);
    assert_eq!(world.igd.asked, ["GET /desc.xml HTTP/1.1", "GetExternalIPAddress", "GetExternalIPAddress"]);
    assert_eq!(world.events, [Event::DoubleNat(Ipv4Addr::UNSPECIFIED)]);
}

#[test]
fn double_nat_prevents_upnp_mapping() {
    let mut world = world(&UPNP);
    world.igd.address = "192.168.178.2".to_owned();
    world.run(ATTEMPT_WITHIN);
    assert_eq!(world.events, [Event::DoubleNat(Ipv4Addr::new(192, 168, 178, 2))]);
    assert_eq!(world.igd.asked.len(), 2);
    // When the double NAT appears later, the existing mapping is deleted.
    let mut world = self::world(&UPNP);
    world.run_ms(200);
    world.igd.address = "100.64.0.9".to_owned();
    world.run(Duration::from_secs(1801));
    assert_eq!(world.events[1..], [Event::Lost, Event::DoubleNat(Ipv4Addr::new(100, 64, 0, 9))]);
    assert_eq!(world.igd.mappings, []);
}

#[test]
fn broken_upnp_gateway_yields_no_mapping() {
    type Change = fn(&mut simulation::Igd);
    let changes: [Change; 5] = [
        |igd| igd.hangs = true,
        |igd| igd.refuses = true,
        |igd| igd.status = Some(302),
        |igd| igd.description = "<root>".repeat(9000),
        |igd| igd.description = "x".repeat(exchange::MAX_BODY + 1),
    ];
    for change in changes {
        let mut world = world(&UPNP);
        change(&mut world.igd);
        world.run(ATTEMPT_WITHIN);
        assert_eq!((world.events.len(), world.max_tcp_connections), (0, 1));
        world.igd = simulation::Igd { location: world.igd.location.clone(), ..simulation::Igd::default() };
        world.run(RETRY_AFTER);
        mapped(&mut world, TARGET.internal_port);
        // The gateway stops responding: the mapping remains until it expires, and the deletion has a second.
        change(&mut world.igd);
        world.run(Duration::from_secs(3000));
        assert_eq!(world.events, []);
        world.map.release(world.now);
        world.run_ms(1000);
        assert!(world.map.is_released());
    }
}

#[test]
fn ssdp_answer_from_other_host_is_ignored() {
    let mut world = World::started(Manner::Silent, Manner::Silent, &UPNP);
    world.run_ms(10);
    let answer = |location: &str| {
        let st = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
        format!("HTTP/1.1 200 OK\r\nST: {st}\r\nLOCATION: {location}\r\n\r\n").into_bytes()
    };
    for (from, location) in [
        ("192.168.1.9:1900", "http://192.168.1.9:5000/desc.xml"),
        ("192.168.1.9:1900", LOCATION),
        ("192.168.1.1:1900", "http://192.168.1.9:5000/desc.xml"),
        ("192.168.1.1:1900", "http://203.0.113.9/desc.xml"),
        ("192.168.1.1:1900", "https://192.168.1.1/desc.xml"),
        ("[fe80::1]:1900", "http://192.168.1.1/desc.xml"),
    ] {
        world.inject(from.parse().unwrap(), &answer(location));
        assert_eq!(world.max_tcp_connections, 0, "{from} {location}");
    }
    // The number of different paths from one host is bounded.
    world.igd.refuses = true;
    for number in 0..20 {
        world.inject("192.168.1.1:1234".parse().unwrap(), &answer(&format!("http://192.168.1.1/{number}")));
    }
    assert_eq!(world.actions.iter().filter(|action| matches!(action, Action::Connect(..))).count(), MAX_DEVICES);
}

#[test]
fn unknown_gateway_is_searched_on_own_networks() {
    let mut world = World::new(Manner::Silent, Manner::Silent, &ALL);
    world.igd.location = Some(LOCATION.to_owned());
    world.map.handle_interfaces(world.now, &[interface(Ipv4Addr::new(203, 0, 113, 2)), interface(LOCAL)]);
    world.map.start(world.now, TARGET.internal_port);
    world.run_ms(200);
    mapped(&mut world, TARGET.internal_port);
    assert_eq!(world.sent.len(), 1, "at once, and only on networks with a private address");
}

#[test]
fn a_control_url_elsewhere_is_not_followed() {
    for control in
        ["http://192.168.1.9/ctl", "//192.168.1.9/ctl", "http://192.168.1.1@192.168.1.9/", "/a&#13;&#10;X: y"]
    {
        let mut world = world(&UPNP);
        world.igd.description = description(&["WANIPConnection:1"]).replace("/ctl/WANIPConnection:1", control);
        world.run(ATTEMPT_WITHIN);
        assert_eq!(world.igd.asked, ["GET /desc.xml HTTP/1.1"], "{control}");
    }
}

proptest! {
    #[test]
    fn mapper_keeps_its_bounds_for_any_upnp_device(
        description in "(<service>|</service>|\
            <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>|\
            <controlURL>/ctl/WANIPConnection:1</controlURL>|<URLBase>http://192.168.1.1/</URLBase>|<|&|<!--|-->){0,12}",
        address in prop_oneof![
            Just(OUTSIDE.to_string()), ".{0,12}", any::<u32>().prop_map(|ip| Ipv4Addr::from(ip).to_string())
        ],
        errors in prop::collection::vec(prop_oneof![Just(718), Just(724), Just(725), Just(402), any::<u16>()], 0..6),
        status in prop::option::of(100..600_u16),
        has_leases in any::<bool>(),
        hangs in any::<bool>(),
        release_at in 0..12_000_u64,
    ) {
        let mut world = world(&UPNP);
        world.igd = simulation::Igd {
            location: world.igd.location, description, address, errors, status, has_leases, ..simulation::Igd::default()
        };
        world.run_ms(release_at);
        world.igd.hangs = hangs;
        let lasting = if hangs { world.igd.mappings.len() } else { 0 };
        world.map.release(world.now);
        world.run_ms(1000);
        prop_assert!(world.map.is_released());
        prop_assert!(world.igd.mappings.len() <= lasting, "no mapping stays");
    }
}
