//! Random material: passwords, MACs, numbers. All of it from the system's generator (contract §14 F2).

use crate::model::Secret;

use super::Failure;

/// Characters of generated passwords (contract §11.4).
const ALPHABET: &[u8] = b"~!@#$%^&*()_[]-=+0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Length of a VNC password: the protocol uses no more (contract §14 F3).
pub const MONITOR_SECRET_LENGTH: usize = 8;

/// Length of a generated administrator's password (contract §11.4).
pub const ADMIN_SECRET_LENGTH: usize = 10;

fn fill(bytes: &mut [u8]) -> Result<(), Failure> {
    getrandom::fill(bytes).map_err(|error| Failure::Internal(format!("the system's random generator failed: {error}")))
}

/// A uniformly chosen number below `bound`; 0 when `bound` is 0.
pub fn below(bound: u32) -> Result<u32, Failure> {
    if bound == 0 {
        return Ok(0);
    }
    // Numbers above the last whole multiple of the bound are thrown away, or low results would come up more often.
    let limit = u32::MAX - u32::MAX % bound;
    loop {
        let mut bytes = [0; 4];
        fill(&mut bytes)?;
        let number = u32::from_le_bytes(bytes);
        if number < limit {
            return Ok(number % bound);
        }
    }
}

/// A password of `length` characters of the contract's alphabet.
pub fn password(length: usize) -> Result<Secret, Failure> {
    let bound = u32::try_from(ALPHABET.len()).unwrap_or(1);
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let index = usize::try_from(below(bound)?).unwrap_or(0);
        if let Some(byte) = ALPHABET.get(index) {
            text.push(char::from(*byte));
        }
    }
    Ok(Secret::new(text))
}

/// A MAC of the range that guests use: 00:16:3e and three random bytes (contract §11.4).
pub fn mac() -> Result<String, Failure> {
    let mut tail = [0; 3];
    fill(&mut tail)?;
    let [a, b, c] = tail;
    Ok(format!("00:16:3e:{a:02x}:{b:02x}:{c:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_the_length_the_alphabet_and_differ() {
        let one = password(MONITOR_SECRET_LENGTH).unwrap();
        let other = password(MONITOR_SECRET_LENGTH).unwrap();
        assert_eq!(one.reveal().len(), 8);
        assert!(one.reveal().bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(one, other);
    }

    #[test]
    fn every_number_below_the_bound_comes_up() {
        let mut seen = [false; 5];
        for _ in 0..400 {
            seen[below(5).unwrap() as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(below(0).unwrap(), 0);
    }

    #[test]
    fn macs_are_in_the_guests_range() {
        let mac = mac().unwrap();
        assert!(mac.starts_with("00:16:3e:"));
        assert_eq!(mac.len(), 17);
        assert_eq!(mac, mac.to_lowercase());
    }
}
