//! Finds culvert's own two programs beside this one, and has cargo make them when they are not there or old.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub relay: PathBuf,
    pub client: PathBuf,
}

impl Binaries {
    /// For a test. With the tests selected too, everything is built of what `cargo test --workspace` has compiled already,
    /// and only the programs are linked; without them the dependencies would have other features.
    pub async fn for_tests() -> anyhow::Result<Self> {
        Self::made_by(&["build", "--workspace", "--bins", "--tests"]).await
    }

    /// As `cargo build` makes them for shipping, in this program's own profile.
    pub async fn shipped() -> anyhow::Result<Self> {
        Self::made_by(&["build", "--workspace", "--bins"]).await
    }

    /// Made before.
    pub fn there(directory: &Path) -> anyhow::Result<Self> {
        let directory =
            directory.canonicalize().with_context(|| format!("finding {}", directory.display()))?;
        let (relay, client) = (directory.join("culvert-relay"), directory.join("culvert"));
        for path in [&relay, &client] {
            if !path.is_file() {
                bail!("there is no {}", path.display());
            }
        }
        Ok(Self { relay, client })
    }

    /// What cargo prints is shown only when it fails.
    async fn made_by(selection: &[&str]) -> anyhow::Result<Self> {
        let directory = directory()?;
        let target = directory.parent().context("finding the target directory")?;
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        cargo.args(selection).args(["--quiet", "--locked", "--target-dir"]).arg(target);
        // What the cargo that runs the tests says of them is none of the programs' affair: a build script that looks at it would
        // be run again, and with it all that depends on it, at every change between the two.
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&*name);
            }
        }
        match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => {}
            Some(profile) => _ = cargo.args(["--profile", profile]),
        }
        let made = cargo.output().await.context("running cargo")?;
        if !made.status.success() {
            bail!("building culvert-relay and culvert:\n{}", String::from_utf8_lossy(&made.stderr));
        }
        Self::there(&directory).context("building culvert-relay and culvert")
    }
}

/// Where cargo puts this profile's programs.
pub(crate) fn directory() -> anyhow::Result<PathBuf> {
    let this = env::current_exe().context("finding this program")?;
    let mut directory = this.parent().context("finding this program's directory")?;
    // Tests are one level further down.
    if directory.ends_with("deps") {
        directory = directory.parent().context("finding the target directory")?;
    }
    Ok(directory.to_owned())
}
