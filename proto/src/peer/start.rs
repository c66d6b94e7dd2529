//! How a peer begins: what follows from its configuration before anything happened.

use std::collections::VecDeque;

use rand_core::Rng;

use super::carried::Transfer;
use super::config::{CodeChoice, Common, DirectPath, Payload, ReceiveConfig, SendConfig};
use super::direct::Direct;
use super::floor::Floor;
use super::host::Host;
use super::meeting::{Ask, Meeting};
use super::net::Net;
use super::rendezvous::Question;
use super::reunion::Reunion;
use super::{Agreement, CodeState, PATIENCE, Peer, Stage};
use crate::Instant;
use crate::discovery::mdns::Mdns;
use crate::handshake::Guesses;
use crate::seed::Seed;
use crate::transfer::{receiver, sender, stream};
use crate::wire::Features;
use crate::wire::relay::{Owner, Side};

impl Peer {
    /// A peer that sends.
    #[must_use]
    pub fn sender(config: SendConfig, now: Instant, mut seed: Seed) -> Self {
        let SendConfig { common, source, code, compression, embedded } = config;
        let owner = random_owner(&mut seed);
        let mut net = Net::new(common.unix_time, seed.split());
        let (code, question) = match code {
            CodeChoice::Generate { words } => (CodeState::Unallocated { words }, Question::Allocate { owner }),
            CodeChoice::Custom(code) => {
                let room = code.nameplate().room_id();
                let question = Question::Join { room, side: Side::Sender, owner, again: false, former: None };
                (CodeState::Ready { code, seated: false, told: false }, question)
            }
        };
        let features = features_of(&common);
        let (mut host, mut meeting) = (None, None);
        match embedded.filter(|_| common.relays.is_empty()) {
            Some(embedded) => {
                let interfaces = common.interfaces.clone();
                let mut inside = Host::new(embedded, interfaces, seed.split(), &mut net);
                if let CodeState::Ready { code, .. } = &code {
                    inside.set_room(code.nameplate().room_id());
                }
                host = Some(inside);
            }
            None => {
                net.open_clients();
                let ask = ask(Side::Sender, features, question, &common, &mut seed);
                let mut relays = Meeting::new(now, ask, &common.relays, &[], &mut net);
                relays.require_spots();
                meeting = Some(relays);
            }
        }
        let config = sender::Config { cores: common.cores.max(1), compression };
        let transfer = match source {
            Payload::Files(source) => {
                let sender = sender::Sender::new(config, source, &seed.split());
                Transfer::Sending(sender.with_limit(common.limit))
            }
            Payload::Stream(source) => {
                let sender = stream::sender::Sender::new(config, source);
                Transfer::StreamOut(Box::new(sender.with_limit(common.limit)))
            }
        };
        Self::new(now, Side::Sender, features, &common, seed, net, host, meeting, code, transfer)
    }

    /// A peer that receives.
    #[must_use]
    pub fn receiver(config: ReceiveConfig, now: Instant, mut seed: Seed) -> Self {
        let ReceiveConfig { common, code, local, discover } = config;
        let owner = random_owner(&mut seed);
        let mut net = Net::new(common.unix_time, seed.split());
        let features = features_of(&common);
        let room = code.nameplate().room_id();
        let question = Question::Join { room, side: Side::Receiver, owner, again: false, former: None };
        let near = if common.relays.is_empty() { local.as_slice() } else { &[] };
        net.open_clients();
        let ask = ask(Side::Receiver, features, question, &common, &mut seed);
        let discover = discover && common.relays.is_empty();
        let mut meeting = Meeting::new(now, ask, &common.relays, near, &mut net);
        if !discover {
            meeting.require_spots();
        }
        let config = receiver::Config { cores: common.cores.max(1) };
        let receiver =
            receiver::Receiver::new(config, seed.split()).with_limit(common.limit).with_buffers(net.buffers());
        let transfer = Transfer::Receiving(receiver);
        let code = CodeState::Ready { code, seated: true, told: true };
        let mut peer =
            Self::new(now, Side::Receiver, features, &common, seed, net, None, Some(meeting), code, transfer);
        if discover {
            peer.mdns = Some(Mdns::browse(now, &peer.interfaces, &peer.seed.split()));
            peer.net.bind_mdns();
        }
        peer
    }

    #[expect(clippy::too_many_arguments, reason = "the two constructors above are its only callers")]
    fn new(
        now: Instant,
        side: Side,
        features: Features,
        common: &Common,
        mut seed: Seed,
        mut net: Net,
        host: Option<Host>,
        meeting: Option<Meeting>,
        code: CodeState,
        transfer: Transfer,
    ) -> Self {
        // Without a relay the other side is on this machine or in this network, and no gateway is between.
        let direct = common
            .direct
            .clone()
            .filter(|_| allows_direct(common))
            .map(|direct| DirectPath { map_ports: direct.map_ports && !common.relays.is_empty(), ..direct });
        let direct = Direct::new(now, side, direct.as_ref(), &seed.split(), &mut net);
        Self {
            direct,
            side,
            features,
            verify: common.verify,
            seed,
            net,
            host,
            meeting,
            code,
            guesses: Guesses::new(),
            reunion: Reunion::Never,
            give_up_after: common.give_up_after,
            links: 0,
            doubt: None,
            awake: now,
            found: None,
            hurried: false,
            response_by: None,
            mdns: None,
            interfaces: common.interfaces.clone(),
            transfer,
            held: None,
            agreement: if common.verify { Agreement::Pending } else { Agreement::NotNeeded },
            stage: Stage::Meeting,
            parting: Vec::new(),
            events: VecDeque::new(),
            told: false,
            progress: crate::transfer::Progress::default(),
            pace: super::pace::Pace::default(),
            next_progress: None,
            accepted_at: None,
            totals: None,
            unseen_offer: None,
            floor: Floor::new(None),
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

/// A proxy is there so that nobody learns of this machine's addresses.
fn allows_direct(common: &Common) -> bool {
    common.direct.is_some() && common.proxy.is_none()
}

fn ask(side: Side, features: Features, question: Question, common: &Common, seed: &mut Seed) -> Ask {
    Ask {
        side,
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
