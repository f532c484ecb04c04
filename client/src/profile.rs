//! What this machine keeps of its relays: for each one a key, a certificate and the relay's authority, in one private
//! file that is replaced in one step, so that the three always belong together; and which relay is meant when none is
//! named. Holds no socket, no environment: whoever asks says in which directory.
//!
//! ```text
//! DIRECTORY/relays/             0700
//!   relay.example.com_4433.pem  0600   private key, certificate, authorities
//!   default                     0600   relay.example.com:4433
//! ```

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use culvert_certs::private_file::{self, PrivateFileError};
use culvert_certs::tls::{self, TlsError};
use culvert_certs::{DeveloperKey, Identity, NotAnIdentity, Secret, decode_certificate, encode_certificate};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::address::RelayAddress;
use crate::dial::Network;
use crate::exit::Exit;

/// The directory that everything is kept in, `$XDG_CONFIG_HOME/culvert` for the command.
#[derive(Clone, Debug)]
pub struct Profiles {
    directory: PathBuf,
    network: Network,
}

/// Who we are to one relay.
#[derive(Debug)]
pub struct Profile {
    pub relay: RelayAddress,
    /// Further addresses of the same relay, as it was asked for now. Not kept.
    pub also: Vec<RelayAddress>,
    pub identity: Identity,
    /// How relays are reached from here. Not kept: it is this process' surroundings.
    pub network: Network,
    key: DeveloperKey,
    certificate: CertificateDer<'static>,
    /// At least one; several while the relay changes its own.
    authorities: Vec<CertificateDer<'static>>,
}

impl Profiles {
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), network: Network::default() }
    }

    /// Every profile that is loaded is dialled by way of this.
    pub fn through(self, network: Network) -> Self {
        Self { network, ..self }
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Keeps a profile in place of the relay's older one, and makes the relay the one that is meant by default.
    pub fn save(&self, profile: &Profile) -> Result<(), ProfileError> {
        private_file::directory(&self.relays())?;
        private_file::replace(&self.path(&profile.relay), profile.to_pem().expose().as_bytes())?;
        private_file::replace(&self.default_path(), format!("{}\n", profile.relay).as_bytes())?;
        Ok(())
    }

    pub fn load(&self, relay: &RelayAddress) -> Result<Profile, ProfileError> {
        let path = self.path(relay);
        let pem = private_file::read(&path)?.ok_or_else(|| ProfileError::Absent { relay: relay.clone() })?;
        let profile = Profile::from_pem(relay, pem.expose())
            .ok_or_else(|| ProfileError::Corrupt { path, relay: relay.clone() })?;
        Ok(Profile { network: self.network.clone(), ..profile })
    }

    /// The relay that was logged in to last.
    pub fn default_relay(&self) -> Result<RelayAddress, ProfileError> {
        let path = self.default_path();
        let text = private_file::read(&path)?.ok_or(ProfileError::NoRelay)?;
        std::str::from_utf8(text.expose())
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or(ProfileError::CorruptDefault { path })
    }

    fn relays(&self) -> PathBuf {
        self.directory.join("relays")
    }

    fn path(&self, relay: &RelayAddress) -> PathBuf {
        self.relays().join(format!("{}.pem", relay.file_stem()))
    }

    fn default_path(&self) -> PathBuf {
        self.relays().join("default")
    }
}

impl Profile {
    /// Of a key and what a relay gave for it.
    pub fn new(
        relay: RelayAddress,
        key: DeveloperKey,
        certificate: CertificateDer<'static>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, NotAnIdentity> {
        // Not verified by us, and it need not be: the relay verifies it at each tunnel, and here it only tells who
        // the relay will say we are.
        let identity = Identity::from_verified(&certificate)?;
        let (also, network) = (Vec::new(), Network::default());
        Ok(Self { relay, also, identity, network, key, certificate, authorities })
    }

    /// Everywhere that the relay may be dialled, the address of the login first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &RelayAddress> {
        std::iter::once(&self.relay).chain(&self.also)
    }

    /// Whether the relay would still take the certificate, as far as our clock can tell.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.identity.not_after <= now
    }

    /// What a tunnel is dialled with.
    pub fn tls(&self) -> Result<ClientConfig, TlsError> {
        tls::tunnel_client(&self.authorities, &self.key, &self.certificate)
    }

    fn to_pem(&self) -> Secret<String> {
        let certificates: String =
            std::iter::once(&self.certificate).chain(&self.authorities).map(encode_certificate).collect();
        let key = self.key.to_pem();
        // Reserved at once: growing would leave copies of the key behind.
        let mut pem = String::with_capacity(key.expose().len() + 1 + certificates.len());
        pem.push_str(key.expose());
        if !pem.ends_with('\n') {
            pem.push('\n');
        }
        pem.push_str(&certificates);
        Secret::new(pem)
    }

    fn from_pem(relay: &RelayAddress, pem: &[u8]) -> Option<Self> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        let text = std::str::from_utf8(pem).ok()?;
        let (key, certificates) = text.split_at_checked(text.find(BEGIN)?)?;
        let key = DeveloperKey::from_pem(key.as_bytes()).ok()?;
        let mut certificates = certificates
            .split(BEGIN)
            .skip(1)
            .map(|rest| decode_certificate(format!("{BEGIN}{rest}").as_bytes()).ok());
        let certificate = certificates.next()??;
        let authorities = certificates.collect::<Option<Vec<_>>>()?;
        if authorities.is_empty() {
            return None;
        }
        Self::new(relay.clone(), key, certificate, authorities).ok()
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    #[error("choosing a relay: none was named, and this machine has not logged in to one")]
    NoRelay,
    #[error("reading the login at {relay}: this machine has not logged in there")]
    Absent { relay: RelayAddress },
    #[error("reading {}: it does not hold a key, a certificate and an authority", path.display())]
    Corrupt { path: PathBuf, relay: RelayAddress },
    #[error("reading {}: it does not hold a relay's address", path.display())]
    CorruptDefault { path: PathBuf },
    #[error(transparent)]
    File(#[from] PrivateFileError),
}

impl ProfileError {
    pub const fn exit(&self) -> Exit {
        Exit::Usage
    }

    pub fn advice(&self) -> Option<String> {
        match self {
            Self::NoRelay | Self::CorruptDefault { .. } => Some(login_again("RELAY")),
            Self::Absent { relay } | Self::Corrupt { relay, .. } => Some(login_again(&relay.to_string())),
            // It says itself what to run.
            Self::File(_) => None,
        }
    }
}

/// What to type when a login is absent, over or refused.
pub(crate) fn login_again(relay: &str) -> String {
    format!(
        "culvert login {relay} --token-file FILE   (whoever runs the relay makes a token with `culvert-relay token create NAME`)"
    )
}

/// `$XDG_CONFIG_HOME/culvert`, or `~/.config/culvert`: the two are what the environment says, and an empty or relative
/// one counts as absent (XDG base directories, "Environment variables").
pub fn directory(xdg_config_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let absolute = |path: &&Path| path.is_absolute();
    let config = xdg_config_home.filter(absolute).map(Path::to_path_buf);
    config.or_else(|| Some(home.filter(absolute)?.join(".config"))).map(|config| config.join("culvert"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use culvert_certs::Authority;

    use super::*;

    fn profile(relay: &str, directory: &Path) -> Profile {
        let now = SystemTime::now();
        let authority = Authority::open_or_create(&directory.join("relay"), now).unwrap();
        let key = DeveloperKey::generate().unwrap();
        let name = "alice".parse().unwrap();
        let issued = authority
            .sign_csr(key.request().unwrap().as_bytes(), &name, Duration::from_secs(3600), now)
            .unwrap();
        let authorities = vec![authority.certificate().clone()];
        Profile::new(relay.parse().unwrap(), key, issued.certificate, authorities).unwrap()
    }

    #[test]
    fn a_login_is_found_again_and_is_the_default() {
        let root = tempfile::tempdir().unwrap();
        let profiles = Profiles::at(root.path().join("culvert"));
        let first = profile("relay.example.com", root.path());
        let second = profile("[::1]:4433", root.path());
        profiles.save(&first).unwrap();
        profiles.save(&second).unwrap();
        assert_eq!(profiles.default_relay().unwrap(), second.relay);
        for saved in [first, second] {
            let loaded = profiles.load(&saved.relay).unwrap();
            assert_eq!(loaded.identity, saved.identity);
            assert_eq!(loaded.authorities, saved.authorities);
            assert!(!loaded.has_expired(SystemTime::now()));
            assert!(loaded.has_expired(SystemTime::now() + Duration::from_secs(7200)));
            loaded.tls().unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_what_is_kept() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;

        let root = tempfile::tempdir().unwrap();
        let profiles = Profiles::at(root.path().join("deep/culvert"));
        let profile = profile("relay", root.path());
        profiles.save(&profile).unwrap();
        assert_eq!(mode(&profiles.relays()), 0o700);
        let files: Vec<_> =
            fs::read_dir(profiles.relays()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        for file in files {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }

        let path = profiles.path(&profile.relay);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = profiles.load(&profile.relay).unwrap_err();
        assert!(error.to_string().contains("run `chmod 600"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
    }

    #[test]
    fn what_is_absent_or_damaged_says_what_to_type() {
        let root = tempfile::tempdir().unwrap();
        let profiles = Profiles::at(root.path().join("culvert"));
        let relay: RelayAddress = "relay:1".parse().unwrap();
        assert!(matches!(profiles.default_relay(), Err(ProfileError::NoRelay)));
        let absent = profiles.load(&relay).unwrap_err();
        assert!(absent.advice().unwrap().starts_with("culvert login relay:1 "), "{absent}");

        let whole = profile("relay:1", root.path());
        profiles.save(&whole).unwrap();
        let pem = whole.to_pem();
        let text = pem.expose();
        let without_authority = text.rfind("-----BEGIN CERT").unwrap();
        for damaged in ["", "x", &text[..text.len() - 40], &text[..without_authority], &text[100..]] {
            private_file::replace(&profiles.path(&relay), damaged.as_bytes()).unwrap();
            let error = profiles.load(&relay).unwrap_err();
            assert!(matches!(error, ProfileError::Corrupt { .. }), "{error}");
            assert!(!error.to_string().contains("BEGIN"), "{error}");
        }
    }

    #[test]
    fn the_directory_follows_the_environment() {
        let (xdg, home) = (Path::new("/xdg"), Path::new("/home/alice"));
        assert_eq!(directory(Some(xdg), Some(home)), Some("/xdg/culvert".into()));
        assert_eq!(directory(None, Some(home)), Some("/home/alice/.config/culvert".into()));
        assert_eq!(directory(Some(Path::new("")), Some(home)), Some("/home/alice/.config/culvert".into()));
        assert_eq!(directory(Some(Path::new("x")), None), None);
    }
}
