//! The multicast DNS messages that this crate sends and understands, encoded and decoded with simple-dns.
//!
//! It limits which datagrams are parsed: at most [`MAX_LEN`] bytes and [`MAX_RECORDS`] records. It reads the counts
//! from the header before the codec allocates memory, because the codec would trust them. Compression pointers lead
//! only backwards, so that no name is endless; the length of the datagram bounds how long they can be followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::{A, AAAA, PTR, RData, SRV, TXT};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, SimpleDnsError, TYPE, header_buffer,
};

use crate::wire::version::SPOKEN;

/// Maximum length of a datagram that is parsed, in bytes: one unfragmented packet. No message that we understand is
/// longer.
pub(super) const MAX_LEN: usize = 1500;
/// Maximum number of questions and records in a datagram.
const MAX_RECORDS: u16 = 64;
/// Maximum number of addresses taken from one announcement.
const MAX_ADDRESSES: usize = 4;
/// The TTL of our records, in seconds (RFC 6762 §10, for records that contain a host name).
pub(super) const TTL: u32 = 120;
/// The TTL in an answer to a resolver without multicast support (RFC 6762 §6.7).
const LEGACY_TTL: u32 = 10;
/// The service type: all our service instances are subdomains of it.
const SERVICE: &str = "_tallow._udp.local";
/// The name for the enumeration of service types (RFC 6763 §9).
const SERVICES: &str = "_services._dns-sd._udp.local";

/// The name of a service instance that another machine announced. It is untrusted and is only sent back to that
/// network.
pub(super) type Instance = Name<'static>;

/// The service that this machine announces. The label is random: it reveals nothing about the code, the machine or its
/// owner.
#[derive(Debug)]
pub(super) struct Service {
    instance: String,
    host: String,
    port: u16,
    version: String,
}

/// A service that another machine announces.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) instance: Instance,
    pub(super) port: u16,
    /// The addresses of the host that are in the announcement.
    pub(super) addresses: Vec<IpAddr>,
    /// The TTL in seconds; 0 withdraws the service.
    pub(super) ttl: u32,
}

impl Service {
    /// A service with the name `label`, which has at most 56 letters and digits.
    pub(super) fn new(label: &str, port: u16) -> Self {
        Self {
            instance: format!("{label}.{SERVICE}"),
            host: format!("{label}.local"),
            port,
            version: format!("versions={}-{}", SPOKEN.min, SPOKEN.max),
        }
    }

    /// An announcement or an answer with all records. With `gone`, it withdraws them (RFC 6762 §10.1).
    pub(super) fn announcement(&self, addresses: &[IpAddr], gone: bool) -> Option<Vec<u8>> {
        let mut packet = Packet::new_reply(0);
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        packet.answers = self.records(addresses, if gone { 0 } else { TTL }, true).ok()?;
        packet.build_bytes_vec_compressed().ok()
    }

    /// An answer to a resolver without multicast support; it repeats the id and the question.
    pub(super) fn legacy_answer(&self, addresses: &[IpAddr], question: &[u8]) -> Option<Vec<u8>> {
        let asked = Packet::parse(question).ok()?;
        let mut packet = Packet::new_reply(asked.id());
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        packet.questions = asked.questions.into_iter().filter(|question| self.is_asked_by(question)).take(1).collect();
        packet.answers = self.records(addresses, LEGACY_TTL, false).ok()?;
        packet.build_bytes_vec_compressed().ok()
    }

    /// Parses a query. `Some` if it asks for a record that we announce and that the querier does not list as known (RFC
    /// 6762 §7.1). `Some(true)` if the querier accepts a unicast answer (§5.4).
    pub(super) fn parse_query(&self, data: &[u8]) -> Option<bool> {
        let packet = parse(data)?;
        if packet.has_flags(PacketFlag::RESPONSE) {
            return None;
        }
        let asked: Vec<_> = packet.questions.iter().filter(|question| self.is_asked_by(question)).collect();
        let service = Name::new(SERVICE).ok()?;
        let instance = Name::new(&self.instance).ok()?;
        let is_known = packet.answers.iter().any(|record| {
            let RData::PTR(PTR(known)) = &record.rdata else { return false };
            record.name == service && *known == instance && record.ttl >= TTL / 2
        });
        if asked.is_empty() || is_known && asked.iter().all(|question| question.qname == service) {
            return None;
        }
        Some(asked.iter().all(|question| question.unicast_response))
    }

    fn is_asked_by(&self, question: &Question<'_>) -> bool {
        let is = |name: &str| Name::new(name).is_ok_and(|name| name == question.qname);
        let types: &[TYPE] = if is(SERVICE) || is(SERVICES) {
            &[TYPE::PTR]
        } else if is(&self.instance) {
            &[TYPE::SRV, TYPE::TXT]
        } else if is(&self.host) {
            &[TYPE::A, TYPE::AAAA]
        } else {
            return false;
        };
        let class = matches!(question.qclass, QCLASS::ANY | QCLASS::CLASS(CLASS::IN));
        class && (question.qtype == QTYPE::ANY || types.iter().any(|&kind| question.qtype == QTYPE::TYPE(kind)))
    }

    /// All our records: they fit into one small packet, and a querier that asked for some would ask for the rest next.
    fn records(&self, addresses: &[IpAddr], ttl: u32, flush: bool) -> Result<Vec<ResourceRecord<'_>>, SimpleDnsError> {
        let (service, instance, host) = (Name::new(SERVICE)?, Name::new(&self.instance)?, Name::new(&self.host)?);
        let record = |name: &Name<'static>, rdata| ResourceRecord::new(name.clone(), CLASS::IN, ttl, rdata);
        let srv = SRV { priority: 0, weight: 0, port: self.port, target: host.clone().into_owned() };
        let txt = TXT::new().with_string(&self.version)?;
        let (instance, host) = (instance.into_owned(), host.into_owned());
        let mut records = vec![
            record(&service, RData::PTR(PTR(instance.clone()))),
            // Unique records replace the cached ones (RFC 6762 §10.2).
            record(&instance, RData::SRV(srv)).with_cache_flush(flush),
            record(&instance, RData::TXT(txt)).with_cache_flush(flush),
        ];
        if ttl > 0 {
            // A shared record: other machines may still announce it, so we must not withdraw it.
            records.push(record(&Name::new(SERVICES)?, RData::PTR(PTR(service.clone()))));
        }
        records.extend(addresses.iter().map(|address| {
            let rdata = match *address {
                IpAddr::V4(address) => RData::A(A::from(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA::from(address)),
            };
            record(&host, rdata).with_cache_flush(flush)
        }));
        Ok(records)
    }
}

/// A query for all instances of the service. `known` are those that need not answer, with their remaining TTL in
/// seconds.
pub(super) fn query<'a>(known: impl Iterator<Item = (&'a Instance, u32)>) -> Option<Vec<u8>> {
    let service = Name::new(SERVICE).ok()?;
    let mut packet = Packet::new_query(0);
    packet.questions.push(Question::new(service.clone(), TYPE::PTR.into(), CLASS::IN.into(), false));
    packet.answers = known
        .map(|(instance, ttl)| ResourceRecord::new(service.clone(), CLASS::IN, ttl, RData::PTR(PTR(instance.clone()))))
        .collect();
    packet.build_bytes_vec_compressed().ok()
}

/// The instances of our service type that a datagram announces; empty if it is not a response.
pub(super) fn parse_response(data: &[u8]) -> Vec<Announced> {
    let Some(packet) = parse(data).filter(|packet| packet.has_flags(PacketFlag::RESPONSE)) else { return Vec::new() };
    let Ok(service) = Name::new(SERVICE) else { return Vec::new() };
    let records = || packet.answers.iter().chain(&packet.additional_records).filter(|record| record.class == CLASS::IN);
    let addresses_of = |host: &Name<'_>| {
        let address = |record: &ResourceRecord<'_>| match &record.rdata {
            RData::A(a) => Some(IpAddr::from(Ipv4Addr::from(a.address))),
            RData::AAAA(aaaa) => Some(IpAddr::from(Ipv6Addr::from(aaaa.address))),
            _ => None,
        };
        records().filter(|record| record.name == *host).filter_map(address).take(MAX_ADDRESSES).collect()
    };
    records()
        .filter(|record| record.name.is_subdomain_of(&service))
        .filter_map(|record| {
            let RData::SRV(srv) = &record.rdata else { return None };
            Some(Announced {
                instance: record.name.clone().into_owned(),
                port: srv.port,
                addresses: addresses_of(&srv.target),
                ttl: record.ttl,
            })
        })
        .collect()
}

fn parse(data: &[u8]) -> Option<Packet<'_>> {
    let counts = [
        header_buffer::questions(data),
        header_buffer::answers(data),
        header_buffer::name_servers(data),
        header_buffer::additional_records(data),
    ];
    let count = counts.into_iter().try_fold(0_u16, |sum, count| count.ok().map(|count| sum.saturating_add(count)))?;
    if data.len() > MAX_LEN || count > MAX_RECORDS {
        return None;
    }
    Packet::parse(data).ok()
}
