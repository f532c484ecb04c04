//! A certificate's serial number: 128 random bits, the handle by which a certificate is revoked.

use std::fmt;
use std::str::FromStr;

use x509_parser::certificate::X509Certificate;

use crate::hex;
use crate::secret::{NoRandomness, random};

/// Written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// `None` when the number has more than 128 bits: then it is not one of ours.
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Option<Self> {
        let digits = certificate.raw_serial();
        // DER drops leading zeros and puts one in front when the first bit is set, so the length says nothing.
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        let significant = digits.get(zeros..)?;
        let mut serial = [0; 16];
        let start = serial.len().checked_sub(significant.len())?;
        serial.get_mut(start..)?.copy_from_slice(significant);
        Some(Self(serial))
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<Serial> for rcgen::SerialNumber {
    fn from(serial: Serial) -> Self {
        Self::from_slice(&serial.0)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = NotASerial;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode(text).map(Self).ok_or(NotASerial)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate serial is 32 hexadecimal digits")]
pub struct NotASerial;
