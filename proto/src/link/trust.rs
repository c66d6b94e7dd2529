//! Whom a link believes: fingerprints, the rule for a relay's certificate, and a node's own identity.
//!
//! Decides whether the certificate that a server shows is accepted, and says how it was recognised so that the application can
//! keep what it has to keep. No state, no timers. It reads no clock: the time at which a certificate must be valid comes from
//! the endpoint, which got it from its caller.
//!
//! The rule, by [`Trust`]:
//! ```text
//! Pin       exactly this certificate
//! Known     this certificate, or one that a public authority vouches for under the server's name
//! PublicCa  only one that a public authority vouches for (it was so before: nothing weaker will do)
//! FirstUse  one that a public authority vouches for, else any, reported so that it can be recorded
//! Any       any; for relays on this machine or found on the LAN, where nothing rests on it
//! ```
//! In every case the server proves with a signature (RFC 8446 §4.4.3) that it has the certificate's key.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What a certificate is known by: the SHA-256 of its DER form.
///
/// Shown as 64 lower-case hex digits, with `{:#}` as pairs between colons; both are read, in either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER form.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = HEXLOWER.encode(&self.0);
        if !f.alternate() {
            return f.write_str(&digits);
        }
        for (place, pair) in digits.as_bytes().chunks(2).enumerate() {
            let colon = if place > 0 { ":" } else { "" };
            write!(f, "{colon}{}", String::from_utf8_lossy(pair))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no fingerprint: 64 hex digits are one, or 32 pairs of them with colons between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 64 hexadecimal digits, or 32 pairs of them with colons between")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let digits: Vec<u8> = match text.len() {
            64 => text.bytes().collect(),
            95 if text.bytes().skip(2).step_by(3).all(|byte| byte == b':') => {
                text.bytes().enumerate().filter(|(place, _)| place % 3 != 2).map(|(_, byte)| byte).collect()
            }
            _ => return Err(NotAFingerprint),
        };
        let bytes = HEXLOWER_PERMISSIVE.decode(&digits).map_err(|_| NotAFingerprint)?;
        bytes.try_into().map(Self).map_err(|_| NotAFingerprint)
    }
}

/// A certificate chain and its private key, as a server shows and uses them.
#[derive(Clone)]
pub struct Identity {
    /// The leaf first, each in DER form.
    pub cert_chain: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS#8 in DER form.
    pub key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// What clients know this server by. Of the empty string, if the chain is empty.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.cert_chain.first().map_or(&[], Vec::as_slice))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

/// Which certificate of a server is accepted: see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Exactly this one: the person gave its fingerprint.
    Pin(Fingerprint),
    /// This one, kept from the first use.
    Known(Fingerprint),
    /// One that a public authority vouches for, as it was the last time.
    PublicCa,
    /// Whatever comes first; the application keeps it.
    FirstUse,
    /// Whatever comes.
    Any,
}

/// How an accepted server was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateSeen {
    /// We are the server: clients are not asked for certificates.
    NotAsked,
    /// It is the one of [`Trust::Pin`].
    Pinned(Fingerprint),
    /// It is the one of [`Trust::Known`].
    Known(Fingerprint),
    /// A public authority vouches for it and for the server's name. To be kept as [`Trust::PublicCa`].
    PublicCa(Fingerprint),
    /// Nobody vouches for it and none was known. To be kept as [`Trust::Known`].
    FirstUse(Fingerprint),
    /// Nobody looked ([`Trust::Any`]).
    Unchecked(Fingerprint),
}

/// Why a server's certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRefused {
    /// It is not the one that the person gave.
    #[error("the relay's certificate {seen} is not the pinned one, {pinned}")]
    NotPinned {
        /// What was asked for.
        pinned: Fingerprint,
        /// What the server has.
        seen: Fingerprint,
    },
    /// It is not the one that the server had at the first use.
    #[error("the relay's certificate changed from {known} to {seen}")]
    Changed {
        /// What was kept.
        known: Fingerprint,
        /// What the server has now.
        seen: Fingerprint,
    },
    /// A public authority vouched for this server before, and none does now.
    #[error("no public authority vouches for the relay's certificate {seen} any more")]
    NotPublic {
        /// What the server has now.
        seen: Fingerprint,
    },
}

/// Applies a [`Trust`] inside the TLS handshake of one connection, and keeps the verdict for the endpoint to report.
///
/// TLS asks a verifier in the middle of reading a flight and has no way to hand its reasons out, so they wait here.
#[derive(Debug)]
pub(super) struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    judgement: Mutex<Judgement>,
}

#[derive(Debug)]
struct Judgement {
    trust: Trust,
    verdict: Option<Result<CertificateSeen, CertificateRefused>>,
}

impl Verifier {
    /// A verifier for one connection; `None` if there are no `roots`.
    pub(super) fn new(trust: Trust, roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Option<Self> {
        let authorities = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().ok()?;
        let algorithms = provider.signature_verification_algorithms;
        Some(Self { authorities, algorithms, judgement: Mutex::new(Judgement { trust, verdict: None }) })
    }

    fn lock(&self) -> MutexGuard<'_, Judgement> {
        self.judgement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found, once the certificate came.
    pub(super) fn verdict(&self) -> Option<Result<CertificateSeen, CertificateRefused>> {
        self.lock().verdict
    }

    /// Another connection to the same server, which need not show its certificate again: whether the one that it showed the last time
    /// is one that `trust` accepts. A certificate that it does show is judged anew.
    pub(super) fn recall(&self, trust: Trust) -> bool {
        let mut judgement = self.lock();
        let (seen, vouched) = match judgement.verdict {
            Some(Ok(CertificateSeen::PublicCa(seen))) => (seen, true),
            Some(Ok(
                CertificateSeen::Pinned(seen)
                | CertificateSeen::Known(seen)
                | CertificateSeen::FirstUse(seen)
                | CertificateSeen::Unchecked(seen),
            )) => (seen, false),
            Some(Ok(CertificateSeen::NotAsked) | Err(_)) | None => return false,
        };
        let verdict = trust.judge(seen, || vouched);
        *judgement = Judgement { trust, verdict: Some(verdict) };
        verdict.is_ok()
    }
}

impl Trust {
    fn judge(self, seen: Fingerprint, vouched: impl Fn() -> bool) -> Result<CertificateSeen, CertificateRefused> {
        match self {
            Self::Pin(pinned) if pinned == seen => Ok(CertificateSeen::Pinned(seen)),
            Self::Pin(pinned) => Err(CertificateRefused::NotPinned { pinned, seen }),
            Self::Known(known) if known == seen => Ok(CertificateSeen::Known(seen)),
            Self::Known(_) | Self::PublicCa | Self::FirstUse if vouched() => Ok(CertificateSeen::PublicCa(seen)),
            Self::Known(known) => Err(CertificateRefused::Changed { known, seen }),
            Self::PublicCa => Err(CertificateRefused::NotPublic { seen }),
            Self::FirstUse => Ok(CertificateSeen::FirstUse(seen)),
            Self::Any => Ok(CertificateSeen::Unchecked(seen)),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let vouched = || self.authorities.verify_server_cert(leaf, intermediates, name, ocsp, now).is_ok();
        let mut judgement = self.lock();
        let verdict = judgement.trust.judge(Fingerprint::of(leaf), vouched);
        judgement.verdict = Some(verdict);
        match verdict {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(_) => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
