//! TLS towards clients and towards mongod.
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config::{Identity, ServerTls};

type Provider = rustls::crypto::CryptoProvider;

/// A number that nobody else knows.
pub(crate) fn unguessable() -> io::Result<i32> {
    let mut bytes = [0; 4];
    provider().secure_random.fill(&mut bytes).map_err(|_| io::Error::other("there are no random numbers"))?;
    Ok(i32::from_le_bytes(bytes))
}

/// Towards clients.
pub(crate) fn towards_clients(identity: &Identity) -> Result<Arc<ServerConfig>, String> {
    let (chain, key) = read(identity)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
    let config = builder.with_single_cert(chain, key);
    config.map(Arc::new).map_err(|error| format!("{}: {error}", identity.certificate.display()))
}

/// Towards mongod; with the name that its certificate must hold.
pub(crate) fn towards_server(
    tls: &ServerTls,
    server: &str,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", tls.ca.display()))?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = read(identity)?;
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| format!("{}: {error}", identity.certificate.display()))?
        }
    };
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    let name = tls.name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("the name {name:?}: {error}"))?;
    Ok((Arc::new(config), name))
}

fn provider() -> Arc<Provider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let file = identity.key.as_ref().unwrap_or(&identity.certificate);
    let key = PrivateKeyDer::from_pem_file(file).map_err(|error| format!("no key in {}: {error}", file.display()))?;
    Ok((certificates(&identity.certificate)?, key))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |error| format!("no certificate in {}: {error}", file.display());
    let all = CertificateDer::pem_file_iter(file).map_err(cannot)?.collect::<Result<Vec<_>, _>>().map_err(cannot)?;
    if all.is_empty() { Err(format!("there is no certificate in {}", file.display())) } else { Ok(all) }
}
