//! Password hashes as Linux keeps them.

use sha_crypt::{sha512_crypt_b64, Sha512Params, ROUNDS_DEFAULT};

/// Characters of a salt (crypt(5)).
const SALT: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Most that SHA-crypt takes.
const SALT_LENGTH: usize = 16;

/// `$6$<salt>$<hash>`: SHA-512 crypt with a salt of the system's generator. Takes milliseconds of CPU time.
pub(super) fn hash(password: &str) -> Result<String, String> {
    let mut random = [0; SALT_LENGTH];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let salt: String = random.iter().filter_map(|byte| SALT.get(usize::from(byte % 64))).map(|byte| char::from(*byte)).collect();
    with_salt(password, &salt)
}

pub(super) fn with_salt(password: &str, salt: &str) -> Result<String, String> {
    let rounds = Sha512Params::new(ROUNDS_DEFAULT).map_err(|error| format!("{error:?}"))?;
    let hash = sha512_crypt_b64(password.as_bytes(), salt.as_bytes(), &rounds).map_err(|error| format!("{error:?}"))?;
    Ok(format!("$6${salt}${hash}"))
}
