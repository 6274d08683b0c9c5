//! Randomness for tokens, UIDs and Pod name suffixes.

use std::fs::File;
use std::io::{self, Read};

/// The alphabet of generated names in Kubernetes: no vowels, so that no words come about.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut buffer = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut buffer)?;
    Ok(buffer)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0x0f])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// 32 hexadecimal digits.
pub(crate) fn token() -> io::Result<String> {
    Ok(hex(&bytes::<16>()?))
}

/// A version 4 UUID, as the API server gives every object.
pub(crate) fn uid() -> io::Result<String> {
    let mut bytes = bytes::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex(&bytes);
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    ))
}

/// The five characters a controller appends to the names of its Pods.
pub(crate) fn name_suffix() -> io::Result<String> {
    let picks = bytes::<5>()?;
    Ok(picks.iter().map(|pick| char::from(NAME_ALPHABET[usize::from(*pick) % NAME_ALPHABET.len()])).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn uids_have_the_form_of_version_4_uuids() {
        let uid = super::uid().expect("random bytes");
        let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert_ne!(uid, super::uid().expect("random bytes"));
    }
}
