//! The initial state and outputs of a peer, from its configuration.

use rand_core::Rng;

use super::config::{CodeChoice, Common, DirectPath, Payload, ReceiveConfig, SendConfig};
use super::connection::Connection;
use super::network::Network;
use super::offer::OfferState;
use super::outbox::Outbox;
use super::paths::Paths;
use super::rendezvous::{EmbeddedRelay, Question, Rendezvous, SearchConfig, ServerList};
use super::{CodeState, PATIENCE, Peer};
use crate::Instant;
use crate::seed::Seed;
use crate::transfer::{Transfer, receiver, sender};
use crate::wire::Features;
use crate::wire::relay::{Owner, Role};

impl Peer {
    /// A sending peer.
    #[must_use]
    pub fn sender(config: SendConfig, now: Instant, mut seed: Seed) -> Self {
        let SendConfig { common, source, code, compression, is_strict, embedded } = config;
        let owner = random_owner(&mut seed);
        let mut net = Network::new(common.unix_time, seed.split()).with_slot(common.slot);
        let (code, question) = match code {
            CodeChoice::Generate { words } => (CodeState::Unallocated { words }, Question::Allocate { owner }),
            CodeChoice::Custom(code) => {
                let room = code.nameplate().room_id();
                let question = Question::Join { room, role: Role::Sender, owner, again: false, former: None };
                (CodeState::Ready { code, seated: false, told: false }, question)
            }
        };
        let features = features_of(&common);
        let rendezvous = match embedded.filter(|_| common.relays.is_empty()) {
            Some(embedded) => {
                let interfaces = common.interfaces.clone();
                let mut relay = EmbeddedRelay::new(embedded, interfaces, seed.split(), &mut net);
                if let CodeState::Ready { code, .. } = &code {
                    relay.set_room(code.nameplate().room_id());
                }
                Rendezvous::embedded(relay)
            }
            None => {
                net.open_clients();
                let search = search_config(Role::Sender, features, question, &common, &mut seed);
                let mut list = ServerList::new(now, search, &common.relays, &[], &mut net);
                list.require_servers();
                Rendezvous::relays(list)
            }
        };
        let config = sender::Config { cores: common.cores.max(1), compression, is_strict };
        let sender = match source {
            Payload::Files(source) => sender::Sender::new(config, source, &seed.split()),
            Payload::Stream(source) => sender::Sender::of_stream(config, source),
        };
        let transfer = Transfer::Sender(Box::new(sender.with_limit(common.limit)));
        Parts { role: Role::Sender, features, seed, net, rendezvous, code, transfer }.assemble(now, &common)
    }

    /// A receiving peer.
    #[must_use]
    pub fn receiver(config: ReceiveConfig, now: Instant, mut seed: Seed) -> Self {
        let ReceiveConfig { common, code, local, discover } = config;
        let owner = random_owner(&mut seed);
        let mut net = Network::new(common.unix_time, seed.split()).with_slot(common.slot);
        let features = features_of(&common);
        let room = code.nameplate().room_id();
        let question = Question::Join { room, role: Role::Receiver, owner, again: false, former: None };
        let near = if common.relays.is_empty() { local.as_slice() } else { &[] };
        net.open_clients();
        let search = search_config(Role::Receiver, features, question, &common, &mut seed);
        let discover = discover && common.relays.is_empty();
        let mut list = ServerList::new(now, search, &common.relays, near, &mut net);
        if !discover {
            list.require_servers();
        }
        let rendezvous = Rendezvous::relays(list);
        let config = receiver::Config { cores: common.cores.max(1) };
        let receiver =
            receiver::Receiver::new(config, seed.split()).with_limit(common.limit).with_buffers(net.buffers());
        let transfer = Transfer::Receiver(Box::new(receiver));
        let code = CodeState::Ready { code, seated: true, told: true };
        let parts = Parts { role: Role::Receiver, features, seed, net, rendezvous, code, transfer };
        let mut peer = parts.assemble(now, &common);
        if discover {
            peer.rendezvous.browse(now, &peer.interfaces, &peer.seed.split(), &mut peer.net);
        }
        peer
    }
}

/// What differs between sender and receiver.
struct Parts {
    role: Role,
    features: Features,
    seed: Seed,
    net: Network,
    rendezvous: Rendezvous,
    code: CodeState,
    transfer: Transfer,
}

impl Parts {
    fn assemble(self, now: Instant, common: &Common) -> Peer {
        let Self { role, features, mut seed, mut net, rendezvous, code, transfer } = self;
        // Without a relay the other side is on this machine or in this network, and no gateway lies between the two.
        let direct = common
            .direct
            .clone()
            .filter(|_| allows_direct(common))
            .map(|direct| DirectPath { map_ports: direct.map_ports && !common.relays.is_empty(), ..direct });
        let paths = Paths::new(now, role, direct.as_ref(), common.give_up_after, &seed.split(), &mut net);
        Peer {
            role,
            seed,
            net,
            rendezvous,
            connection: Connection::new(role, features),
            paths,
            transfer,
            offer: OfferState::new(common.verify),
            outbox: Outbox::default(),
            code,
            give_up_after: common.give_up_after,
            awake: now,
            interfaces: common.interfaces.clone(),
        }
    }
}

fn features_of(common: &Common) -> Features {
    let mut features = Features::default();
    let only = common.direct.as_ref().is_some_and(|direct| direct.only) && allows_direct(common);
    for (set, feature) in [
        (!common.aes, Features::NO_AES),
        (common.verify, Features::VERIFY),
        (!allows_direct(common), Features::NO_P2P),
        (only, Features::P2P_ONLY),
    ] {
        if set {
            features = features.with(feature);
        }
    }
    features
}

/// Whether a direct path is allowed: not with a proxy, which is meant to hide this machine's addresses.
fn allows_direct(common: &Common) -> bool {
    common.direct.is_some() && common.proxy.is_none()
}

fn search_config(role: Role, features: Features, question: Question, common: &Common, seed: &mut Seed) -> SearchConfig {
    SearchConfig {
        role,
        features,
        question,
        patience: common.give_up_after.unwrap_or(PATIENCE),
        seed: seed.split(),
        transport: common.transport,
        proxy: common.proxy.clone(),
    }
}

fn random_owner(seed: &mut Seed) -> Owner {
    let mut owner = [0; 16];
    seed.split().rng().fill_bytes(&mut owner);
    Owner(owner)
}
