//! The data folder of a control plane: its store, and what the first start makes beside it.
//!
//! The store is the truth, also for the secrets, which it seals: the authority, the key of tokens, the
//! administrator's token. `admin.token` and `ca.crt` are copies for people, written when the store is
//! first made and never again, so that whoever takes them away does not get them back at the next restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use api::gate::{Auth, Caller};
use identity::token::InvalidAdminToken;
use identity::{
    AdminToken, AuthorityError, ControlCa, IssueError, Issuer, KeyError, Pin, ServerRole, TokenKey,
};
use model::Origin;
use runtime::files;
use store::{EmbeddedStore, OpenError, SecretBytes, Store};

use crate::views;

/// What a control plane stands on. Clones share it.
#[derive(Clone)]
pub struct Home {
    pub store: Arc<dyn Store>,
    pub ca: Arc<ControlCa>,
    pub token_key: Arc<TokenKey>,
    pub admin: Arc<AdminToken>,
}

#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("could not use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the store's {what} is not text: restore the store")]
    NotText { what: &'static str },
    #[error("the authority in the store cannot be used: restore the store")]
    Authority(#[from] AuthorityError),
    #[error("the authority in the store is {found}'s, not {wanted}'s: use another folder")]
    WrongRole { found: ServerRole, wanted: ServerRole },
    #[error("no authority could be made")]
    Issue(#[from] IssueError),
    #[error("the key of tokens in the store cannot be used: restore the store")]
    TokenKey(#[from] KeyError),
    #[error("the administrator's token in the store cannot be used: restore the store")]
    Admin(#[from] InvalidAdminToken),
}

/// The administrator's token, for `Authorization: Bearer`.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";
/// The authority's certificate, for clients of the API.
pub const CA_FILE: &str = "ca.crt";

const CA: &str = "control/ca";
const TOKEN_KEY: &str = "control/token-key";
const ADMIN_TOKEN: &str = "control/admin-token";
/// Set when the files for people are written.
const FILES_WRITTEN: &str = "control/files-written";

impl Home {
    /// Opens the folder of the control plane that writes as `origin`, or makes it (0700).
    pub async fn open(folder: &Path, origin: Origin, now: SystemTime) -> Result<Self, HomeError> {
        let store = {
            let (folder, origin) = (folder.to_owned(), origin.clone());
            blocking(move || {
                files::create_private_dir(&folder)
                    .map_err(|source| HomeError::File { path: folder.clone(), source })?;
                Ok(EmbeddedStore::open(&folder, origin)?)
            })
            .await?
        };
        let home = Self::on(store, now).await?;
        home.write_files(folder).await?;
        Ok(home)
    }

    /// On a store that is open already; writes no files.
    pub async fn on(store: Arc<dyn Store>, now: SystemTime) -> Result<Self, HomeError> {
        let role = role_of(store.origin());
        let ca =
            secret(&*store, CA, || Ok(ControlCa::create(role.clone(), now)?.to_pem().to_string())).await?;
        let ca = ControlCa::from_pem(&ca)?;
        if *ca.role() != role {
            return Err(HomeError::WrongRole { found: ca.role().clone(), wanted: role });
        }
        let key = secret(&*store, TOKEN_KEY, || Ok(TokenKey::generate().to_pem().to_string())).await?;
        let admin = secret(&*store, ADMIN_TOKEN, || Ok(AdminToken::generate().expose().to_owned())).await?;
        views::tell_anew_if_changed(&*store).await?;
        Ok(Self {
            store,
            ca: Arc::new(ca),
            token_key: Arc::new(TokenKey::from_pem(&key)?),
            admin: Arc::new(admin.parse()?),
        })
    }

    pub fn origin(&self) -> &Origin {
        self.store.origin()
    }

    pub fn role(&self) -> &ServerRole {
        self.ca.role()
    }

    /// As whom this control plane issues tokens.
    pub fn issuer(&self) -> Issuer {
        match self.origin() {
            Origin::Global => Issuer::Global,
            Origin::Zone(zone) => Issuer::Zone(zone.clone()),
        }
    }

    /// What tokens carry as `ca`.
    pub fn pin(&self) -> Pin {
        self.ca.pin()
    }

    /// Knows the administrator, and nobody else.
    pub fn auth(&self) -> Arc<dyn Auth> {
        let admin = self.admin.clone();
        Arc::new(move |token: &str| admin.matches(token).then(|| Caller { name: "admin".into() }))
    }

    async fn write_files(&self, folder: &Path) -> Result<(), HomeError> {
        if self.store.secret_get(FILES_WRITTEN).await?.is_some() {
            return Ok(());
        }
        let texts = [(ADMIN_TOKEN_FILE, format!("{}\n", self.admin.expose())), (CA_FILE, self.ca.ca_pem())];
        for (name, text) in texts {
            let path = folder.join(name);
            let written = files::save_private(path.clone(), text.into_bytes()).await;
            written.map_err(|source| HomeError::File { path, source })?;
        }
        self.store.secret_put(FILES_WRITTEN, b"1".to_vec().into()).await?;
        Ok(())
    }
}

/// The name of a control plane in certificates, by what it writes as.
pub fn role_of(origin: &Origin) -> ServerRole {
    match origin {
        Origin::Global => ServerRole::Global,
        Origin::Zone(zone) => ServerRole::Zone(zone.clone()),
    }
}

/// A text among the store's secrets; made, and durable, before it is first used.
async fn secret(
    store: &dyn Store,
    what: &'static str,
    make: impl FnOnce() -> Result<String, HomeError>,
) -> Result<String, HomeError> {
    let held = match store.secret_get(what).await? {
        Some(held) => held,
        None => {
            let made = SecretBytes::from(make()?.into_bytes());
            store.secret_put(what, made.clone()).await?;
            made
        }
    };
    let text = std::str::from_utf8(held.expose()).map_err(|_| HomeError::NotText { what })?;
    Ok(text.to_owned())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HomeError> + Send + 'static,
) -> Result<T, HomeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_restart_is_the_same_control_plane_and_what_was_taken_away_stays_away() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("global");
        let now = SystemTime::now();
        let first = Home::open(&folder, Origin::Global, now).await.unwrap();
        let (pin, kid, admin) =
            (first.pin(), first.token_key.kid().to_owned(), first.admin.expose().to_owned());
        drop(first);

        for name in [ADMIN_TOKEN_FILE, CA_FILE] {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let text = fs::read_to_string(folder.join(ADMIN_TOKEN_FILE)).unwrap();
        assert_eq!(text, format!("{admin}\n"));
        let certificates = fs::read_to_string(folder.join(CA_FILE)).unwrap();
        let certificates = identity::certificates_from_pem(&certificates).unwrap();
        assert_eq!(Pin::of(&certificates[0]), pin);

        fs::remove_file(folder.join(ADMIN_TOKEN_FILE)).unwrap();
        let second = Home::open(&folder, Origin::Global, now).await.unwrap();
        assert_eq!((second.pin(), second.token_key.kid()), (pin, kid.as_str()));
        assert!(second.auth().caller(&admin).is_some());
        assert!(second.auth().caller("another").is_none());
        assert!(!folder.join(ADMIN_TOKEN_FILE).exists());
    }

    #[tokio::test]
    async fn no_key_of_a_control_plane_is_in_its_file_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), Origin::Global, SystemTime::now()).await.unwrap();
        let store = home.store.clone();
        // Any 16 bytes of one would do.
        let mut pieces = BTreeSet::new();
        for name in [CA, TOKEN_KEY, ADMIN_TOKEN] {
            let secret = store.secret_get(name).await.unwrap().unwrap();
            pieces.extend(secret.expose().chunks_exact(16).map(<[u8]>::to_vec));
        }
        assert!(pieces.len() > 20);
        drop((home, store));
        let file = fs::read(dir.path().join("store.redb")).unwrap();
        assert!(!file.windows(16).any(|window| pieces.contains(window)));
    }

    #[tokio::test]
    async fn a_folder_belongs_to_one_origin() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        drop(Home::open(dir.path(), Origin::Global, now).await.unwrap());
        let east = Origin::Zone("east".parse().unwrap());
        let error = Home::open(dir.path(), east, now).await.err().unwrap();
        assert!(matches!(error, HomeError::Open(OpenError::WrongOrigin { .. })), "{error}");
    }
}
