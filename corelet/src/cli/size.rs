//! Sizes as people write and read them.

/// Bytes from `1048576`, `512K`, `64M`, `1.5G`, `10GiB`; the steps are of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("unknown unit '{unit}'; use K, M, G or T")),
    };
    let factor = 1_u64 << shift;
    let wrong = || format!("'{text}' is not a size; write for example 512M or 10G");
    match number.split_once('.') {
        None => number.parse::<u64>().map_err(|_| wrong())?.checked_mul(factor).ok_or_else(wrong),
        Some((whole, fraction)) if fraction.len() <= 6 && !fraction.is_empty() => {
            let whole = whole.parse::<u64>().map_err(|_| wrong())?.checked_mul(factor).ok_or_else(wrong)?;
            let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
            let part = u128::from(fraction.parse::<u64>().map_err(|_| wrong())?) * u128::from(factor) / scale;
            whole.checked_add(u64::try_from(part).unwrap_or_default()).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}

/// `1.5 GiB`
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        None => format!("{bytes} B"),
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            }
        }
    }
}

#[cfg(test)]
mod tests;
