//! Values that must not be seen, and where they come from. Holds no key format and no file.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A value that is wiped when it is dropped and that no log line can show.
///
/// There is no `Display`, no `Serialize`, no `PartialEq` and no `Deref`; `Debug` prints a placeholder. Whoever needs the
/// value says so with [`Secret::expose`], which a review can search for. What it was made from, and what the compiler
/// left on the stack when it was moved, is not wiped: this bounds how long a secret lies about, no more.
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<const N: usize> Secret<[u8; N]> {
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        let mut secret = Self::new([0; N]);
        fill(secret.0.as_mut_slice())?;
        Ok(secret)
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading random bytes from the operating system: none were given")]
pub struct NoRandomness;

/// Random bytes for what is not secret: serials and ids.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    rustls::crypto::ring::default_provider().secure_random.fill(bytes).map_err(|_| NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_cannot_be_read_from_a_log_line() {
        let secret = Secret::new(String::from("hunter2"));
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "<secret> Some(\n    <secret>,\n)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn two_random_secrets_differ() {
        let (one, two) = (Secret::<[u8; 32]>::random().unwrap(), Secret::<[u8; 32]>::random().unwrap());
        assert_ne!(one.expose(), two.expose());
    }
}
