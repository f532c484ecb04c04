//! The two network namespaces that a link leads from and to. Wants root; holds no packet.

use std::process::Command as Blocking;

use anyhow::{Context as _, bail};

pub(crate) const NEAR: &str = "10.99.77.1";
pub(crate) const FAR: &str = "10.99.77.2";

/// Two, named as the devices in them; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) near: String,
    pub(crate) far: String,
}

impl Namespaces {
    pub(crate) fn make() -> anyhow::Result<Self> {
        let this = std::process::id();
        // A device's name has 15 bytes.
        let namespaces = Self { near: format!("cvn{this}"), far: format!("cvf{this}") };
        ip(&["netns", "add", &namespaces.near])?;
        ip(&["netns", "add", &namespaces.far])?;
        Ok(namespaces)
    }

    /// Each device goes into its namespace, and is up.
    pub(crate) fn join(&self) -> anyhow::Result<()> {
        for (name, address) in [(&self.near, NEAR), (&self.far, FAR)] {
            ip(&["link", "set", "dev", name, "netns", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", name])?;
            ip(&["-n", name, "link", "set", "dev", name, "up"])?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            // Nobody is left to be told.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let said =
        Blocking::new("ip").args(arguments).output().context("running ip (apt-get install iproute2)")?;
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr);
        bail!("ip {}: {} (wants root)", arguments.join(" "), why.trim());
    }
    Ok(())
}
