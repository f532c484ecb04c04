//! The addresses of an IPv4 packet, changed with the checksums that cover them (RFC 1624). Other packets are left alone.

use std::net::Ipv4Addr;
use std::ops::Range;

const SOURCE: Range<usize> = 12..16;
const DESTINATION: Range<usize> = 16..20;
const HEADER_CHECKSUM: usize = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;

pub(super) fn source(packet: &[u8]) -> Option<Ipv4Addr> {
    address(packet, SOURCE)
}

pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    address(packet, DESTINATION)
}

pub(super) fn set_source(packet: &mut [u8], address: Ipv4Addr) {
    replace(packet, SOURCE, address);
}

pub(super) fn set_destination(packet: &mut [u8], address: Ipv4Addr) {
    replace(packet, DESTINATION, address);
}

fn address(packet: &[u8], at: Range<usize>) -> Option<Ipv4Addr> {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    let octets: [u8; 4] = packet[at].try_into().ok()?;
    Some(octets.into())
}

fn replace(packet: &mut [u8], at: Range<usize>, new: Ipv4Addr) {
    let Some(old) = address(packet, at.clone()) else { return };
    packet[at].copy_from_slice(&new.octets());
    adjust(packet, HEADER_CHECKSUM, old, new);
    // Only the first fragment has a header of TCP or UDP.
    let first = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff == 0;
    let header = usize::from(packet[0] & 0x0f) * 4;
    match packet[9] {
        TCP if first => adjust(packet, header + 16, old, new),
        // None is a checksum too, and stays none.
        UDP if first && packet.get(header + 6..header + 8).is_some_and(|sum| sum != [0, 0]) => {
            adjust(packet, header + 6, old, new);
        }
        _ => {}
    }
}

/// The checksum at this place, for an address that it covers and that has changed.
fn adjust(packet: &mut [u8], at: usize, old: Ipv4Addr, new: Ipv4Addr) {
    let Some(&[high, low]) = packet.get(at..at + 2) else { return };
    let words = |address: Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
    };
    let mut sum = u32::from(!u16::from_be_bytes([high, low]));
    for (old, new) in words(old).into_iter().zip(words(new)) {
        sum += u32::from(!old) + u32::from(new);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Below 0x10000 by now.
    let folded = !u16::try_from(sum).unwrap_or_default();
    packet[at..at + 2].copy_from_slice(&folded.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over all words, as RFC 1071 has it: 0xffff where a checksum that is among them is right.
    fn sum(bytes: &[u8]) -> u32 {
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| low.into()))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    /// What a transport's checksum covers.
    fn covered(packet: &[u8]) -> Vec<u8> {
        let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
        [&packet[12..20], &[0, packet[9]], &length, &packet[20..]].concat()
    }

    fn packet(protocol: u8, checksum: usize) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 48, 1, 2, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
        packet.extend((0..28).map(|byte| byte * 7 + 3));
        packet[20 + checksum..22 + checksum].fill(0);
        let header = !u16::try_from(sum(&packet[..20])).unwrap();
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        let body = !u16::try_from(sum(&covered(&packet))).unwrap();
        packet[20 + checksum..22 + checksum].copy_from_slice(&body.to_be_bytes());
        packet
    }

    #[test]
    fn both_checksums_hold_after_an_address_has_changed() {
        for (protocol, checksum) in [(TCP, 16), (UDP, 6)] {
            let mut packet = packet(protocol, checksum);
            set_source(&mut packet, Ipv4Addr::new(172, 16, 255, 254));
            set_destination(&mut packet, Ipv4Addr::new(192, 0, 2, 77));
            assert_eq!(source(&packet), Some(Ipv4Addr::new(172, 16, 255, 254)));
            assert_eq!(destination(&packet), Some(Ipv4Addr::new(192, 0, 2, 77)));
            assert_eq!((sum(&packet[..20]), sum(&covered(&packet))), (0xffff, 0xffff));
        }
    }

    #[test]
    fn what_is_no_ipv4_is_left_alone() {
        for mut bytes in [vec![], vec![0x45; 19], vec![0x60; 60]] {
            let before = bytes.clone();
            set_source(&mut bytes, Ipv4Addr::LOCALHOST);
            assert_eq!(bytes, before);
        }
        let mut fragment = packet(UDP, 6);
        fragment[7] = 1;
        let before = fragment[20..].to_vec();
        set_source(&mut fragment, Ipv4Addr::LOCALHOST);
        assert_eq!(fragment[20..], before);
    }
}
