use super::*;
use crate::link::trust::Identity;

fn common() -> Common {
    Common::new(Machine { cores: 1, interfaces: Vec::new(), unix_time: Duration::from_secs(1 << 30), aes: true })
}

fn identity() -> Identity {
    Identity { cert_chain: vec![vec![1]], key: vec![2].into() }
}

fn sending() -> SendConfig {
    SendConfig::new(common(), Payload::bytes("a", "b").unwrap())
}

fn receiving() -> ReceiveConfig {
    ReceiveConfig::new(common(), "7-acorn-bicycle-canal".parse::<Invitation>().unwrap())
}

#[test]
fn a_sender_without_a_relay_is_an_error_at_the_start() {
    assert_eq!(sending().check(), Err(ConfigError::NoRelay));
    assert_eq!(sending().with_embedded(Embedded::new(identity())).check(), Ok(()));
    let nowhere = Embedded::new(identity()).listening_at(Vec::new());
    assert_eq!(sending().with_embedded(nowhere).check(), Err(ConfigError::NowhereToListen));
    let relay: RelayAddress = "relay.example".parse().unwrap();
    assert_eq!(sending().with_relay(relay.clone()).check(), Ok(()));
    let many = (0..=MAX_SERVERS).fold(sending(), |config, _| config.with_relay(relay.clone()));
    assert_eq!(many.check(), Err(ConfigError::TooManyRelays(MAX_SERVERS + 1)));
}

#[test]
fn receiver_without_relay_or_discovery_is_an_error() {
    let mut config = receiving();
    assert_eq!(config.check(), Ok(()));
    (config.local, config.discover) = (Vec::new(), false);
    assert_eq!(config.check(), Err(ConfigError::NowhereToLook));
}

#[test]
fn a_code_has_two_to_eight_words() {
    let config = sending().with_embedded(Embedded::new(identity()));
    for words in [0, 1, 9, 200] {
        assert_eq!(config.clone().with_words(words).check(), Err(ConfigError::Words(words)));
    }
    assert!((2..=8).all(|words| config.clone().with_words(words).check().is_ok()));
}

#[test]
fn contradictory_config_is_an_error() {
    let proxy: Proxy = "socks5h://127.0.0.1:9050".parse().unwrap();
    assert_eq!(receiving().with_proxy(proxy.clone()).check(), Err(ConfigError::ProxyWithoutRelay));
    let relay: RelayAddress = "relay.example".parse().unwrap();
    let only = DirectPath { only: true, ..DirectPath::new(identity()) };
    let config = receiving().with_relay(relay).with_proxy(proxy).with_direct_path(only);
    assert_eq!(config.check(), Err(ConfigError::OnlyDirectOverProxy));
    let ports = |ports| receiving().with_direct_path(DirectPath { ports: Some(ports), ..DirectPath::new(identity()) });
    assert_eq!(ports((2, 1)).check(), Err(ConfigError::Ports(2, 1)));
    assert_eq!(receiving().with_limit(NonZeroU64::MIN).check(), Err(ConfigError::Limit(1)));
}

#[test]
fn an_invitation_is_a_code_or_a_link() {
    let code: Invitation = " 7-acorn-bicycle-canal ".parse().unwrap();
    assert_eq!(code.relay, None);
    let link: Invitation = "tallow://relay.example:99/7#acorn-bicycle-canal".parse().unwrap();
    assert_eq!(link.code.reveal(), code.code.reveal());
    let config = ReceiveConfig::new(common(), link);
    assert_eq!(config.common.relays[0].address.to_string(), "relay.example:99");
    assert!("tallow://".parse::<Invitation>().is_err() && "7".parse::<Invitation>().is_err());
}
