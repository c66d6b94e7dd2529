//! Authentication of servers: fingerprints, the trust rule for a relay's certificate, and a node's own identity.
//!
//! Decides whether the certificate that a server presents is accepted, and reports how it was recognised, so that the
//! application can store the result. No state, no timers. It reads no clock: the time at which a certificate must be
//! valid comes from the endpoint, which got it from its caller.
//!
//! The rule, by [`Trust`]:
//! ```text
//! Pin       exactly this certificate
//! Known     this certificate, or one that a public CA issued for the server's name
//! PublicCa  only one that a public CA issued for the server's name, as before: a weaker one is refused
//! FirstUse  one that a public CA issued for the server's name, else any, reported so that it can be stored
//! Any       any; for relays on this machine or found on the LAN, where no security depends on it
//! ```
//! In every case the server proves with a signature (RFC 8446 §4.4.3) that it has the certificate's private key.

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

/// The fingerprint of a certificate: the SHA-256 of its DER form.
///
/// It is printed as 64 lower-case hex digits, with `{:#}` as pairs between colons; both forms can be parsed, in either
/// case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
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

/// The text is not a fingerprint, which has 64 hex digits, or 32 pairs of them with colons between.
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

/// The certificate chain and the private key of a server.
#[derive(Clone)]
pub struct Identity {
    /// The certificates, leaf first, each in DER form.
    pub cert_chain: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS#8 in DER form.
    pub key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// The fingerprint of the leaf, by which clients recognise this server; that of the empty string if the chain is
    /// empty.
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

/// The rule for accepting a server's certificate; the module's documentation has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// Only the certificate with this fingerprint, which the user configured.
    Pin(Fingerprint),
    /// The certificate with this fingerprint, which was stored at the first use, or one of a public CA.
    Known(Fingerprint),
    /// Only a certificate of a public CA, because the server had one at the last connection.
    PublicCa,
    /// Any certificate at the first use; the application stores its fingerprint.
    FirstUse,
    /// Any certificate.
    Any,
}

/// How an accepted server was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateSeen {
    /// This side is the server, which requests no certificates from clients.
    NotAsked,
    /// It is the certificate of [`Trust::Pin`].
    Pinned(Fingerprint),
    /// It is the certificate of [`Trust::Known`].
    Known(Fingerprint),
    /// A public CA issued it for the server's name. The application should store it as [`Trust::PublicCa`].
    PublicCa(Fingerprint),
    /// No public CA issued it and none was known. The application should store it as [`Trust::Known`].
    FirstUse(Fingerprint),
    /// It was not verified ([`Trust::Any`]).
    Unchecked(Fingerprint),
}

/// Why a server's certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRefused {
    /// It is not the one that the user configured.
    #[error("the relay's certificate {seen} is not the pinned one, {pinned}")]
    NotPinned {
        /// The configured fingerprint.
        pinned: Fingerprint,
        /// The fingerprint that the server presented.
        seen: Fingerprint,
    },
    /// It is not the one that the server had at the first use.
    #[error("the relay's certificate changed from {known} to {seen}")]
    Changed {
        /// The stored fingerprint.
        known: Fingerprint,
        /// The fingerprint that the server presented now.
        seen: Fingerprint,
    },
    /// The server had a certificate of a public CA before and has none now.
    #[error("the relay's certificate {seen} is no longer from a public authority")]
    NotPublic {
        /// The fingerprint that the server presented now.
        seen: Fingerprint,
    },
}

/// Applies a [`Trust`] inside the TLS handshake of one connection, and stores the result for the endpoint to report.
///
/// rustls calls a verifier while it processes a flight and cannot return the reasons of the verifier, so they are
/// stored here.
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
    /// Creates a verifier for one connection; `None` if there are no `roots`.
    pub(super) fn new(trust: Trust, roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Option<Self> {
        let authorities = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().ok()?;
        let algorithms = provider.signature_verification_algorithms;
        Some(Self { authorities, algorithms, judgement: Mutex::new(Judgement { trust, verdict: None }) })
    }

    fn lock(&self) -> MutexGuard<'_, Judgement> {
        self.judgement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result, once the server has presented its certificate.
    pub(super) fn verdict(&self) -> Option<Result<CertificateSeen, CertificateRefused>> {
        self.lock().verdict
    }

    /// Prepares for another connection to the same server, which need not present its certificate again. Returns
    /// whether `trust` accepts the certificate that it presented the last time. If it does present one, that is
    /// verified again.
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
mod tests;
