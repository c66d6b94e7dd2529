//! The certificate and key of a relay.
//!
//! Decides their source: created once and stored in the state directory (one file, `relay-identity.pem`, so that they
//! always match), created for one run, or given. A created certificate is self-signed, ECDSA P-256, with the longest
//! validity possible: clients verify its fingerprint, not its dates. No states, no timers.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tallow_proto::link::Identity;

use zeroize::Zeroizing;

use crate::state::{self, StoreError};

const FILE: &str = "relay-identity.pem";
/// The subject name of a self-signed certificate.
const NAME: &str = "tallow-relay";

/// Loads the identity of a state directory; the first call creates it.
///
/// # Errors
/// It can't be read, is damaged, or can't be written.
pub fn load_or_create(dir: &Path) -> Result<Identity, StoreError> {
    let path = dir.join(FILE);
    if let Some(pem) = state::read_private(&path)? {
        return parse(&path, &pem, &path, &pem);
    }
    let (identity, pem) = generate()?;
    if state::write_private(dir, FILE, pem.as_bytes(), true)? {
        return Ok(identity);
    }
    // Another process created it first.
    let pem = state::read_private(&path)?.ok_or(StoreError::Content { path: path.clone(), why: "it was removed" })?;
    parse(&path, &pem, &path, &pem)
}

/// Creates an identity for one run.
///
/// # Errors
/// No certificate could be created.
pub fn ephemeral() -> Result<Identity, StoreError> {
    generate().map(|(identity, _)| identity)
}

/// A certificate (with those above it, the leaf first) and its key, from PEM files; they may be one file.
///
/// # Errors
/// A file can't be read, or holds something else.
pub fn from_pem(cert: &Path, key: &Path) -> Result<Identity, StoreError> {
    let read =
        |path: &Path| state::read(path)?.ok_or_else(|| StoreError::io(path)(std::io::ErrorKind::NotFound.into()));
    parse(cert, &read(cert)?, key, &read(key)?)
}

fn generate() -> Result<(Identity, Zeroizing<String>), StoreError> {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let identity = Identity { cert_chain: vec![cert.der().to_vec()], key: signing_key.serialize_der().into() };
    let key = Zeroizing::new(signing_key.serialize_pem());
    let certificate = cert.pem();
    let mut pem = Zeroizing::new(String::with_capacity(certificate.len() + key.len()));
    pem.push_str(&certificate);
    pem.push_str(&key);
    Ok((identity, pem))
}

fn parse(cert_path: &Path, cert: &[u8], key_path: &Path, key: &[u8]) -> Result<Identity, StoreError> {
    let bad = |path: &Path, why| StoreError::Content { path: path.to_owned(), why };
    let cert_chain = CertificateDer::pem_slice_iter(cert)
        .map(|cert| cert.map(|cert| cert.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad(cert_path, "damaged PEM"))?;
    if cert_chain.is_empty() {
        return Err(bad(cert_path, "no certificate in it"));
    }
    let key = match PrivateKeyDer::from_pem_slice(key) {
        Ok(PrivateKeyDer::Pkcs8(key)) => Zeroizing::new(key.secret_pkcs8_der().to_vec()),
        Ok(_) => return Err(bad(key_path, "not a PKCS#8 key (openssl pkcs8 -topk8 -nocrypt makes one of it)")),
        Err(_) => return Err(bad(key_path, "no private key in it")),
    };
    let usable = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_slice()));
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&usable)
        .map_err(|_| bad(key_path, "a kind of key that can't be used"))?;
    let leaf = cert_chain.first().map(|leaf| CertificateDer::from(leaf.clone())).into_iter().collect();
    if rustls::sign::CertifiedKey::new(leaf, signing).keys_match()
        == Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch))
    {
        return Err(bad(key_path, "not the certificate's key"));
    }
    Ok(Identity { cert_chain, key })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_created_once_stored_and_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        let made = load_or_create(&dir).unwrap();
        let again = load_or_create(&dir).unwrap();
        assert_eq!((made.fingerprint(), &made.key), (again.fingerprint(), &again.key));
        let mode = std::fs::metadata(dir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(dir.join(FILE), std::fs::Permissions::from_mode(0o644)).unwrap();
        load_or_create(&dir).unwrap();
        assert_eq!(std::fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(ephemeral().unwrap().fingerprint(), made.fingerprint());
        // Made by many at once, it is one.
        let dir = root.path().join("race");
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| load_or_create(&dir).unwrap().fingerprint())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn an_invalid_identity_is_reported_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ((one, one_pem), (_, other_pem)) = (generate().unwrap(), generate().unwrap());
        let (good, other, none) =
            (file("good.pem", &one_pem), file("other.pem", &other_pem), file("none.pem", "nothing"));
        assert_eq!(from_pem(&good, &good).unwrap().fingerprint(), one.fingerprint());
        let told = |cert: &Path, key: &Path| from_pem(cert, key).unwrap_err().to_string();
        assert!(told(&good, &other).ends_with("other.pem: not the certificate's key"), "{}", told(&good, &other));
        assert!(told(&none, &good).ends_with("none.pem: no certificate in it"));
        assert!(told(&good, &none).ends_with("none.pem: no private key in it"));
        assert!(told(&root.path().join("gone.pem"), &good).contains("gone.pem: entity not found"));
        std::fs::write(root.path().join(FILE), "damaged").unwrap();
        assert!(load_or_create(root.path()).unwrap_err().to_string().contains(FILE));
    }
}
