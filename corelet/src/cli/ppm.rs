//! PPM pictures (P6, 8 bits) to PNG.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// Longest side that is believed.
const MAX_SIDE: usize = 16_384;

/// Why a picture could not be converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PpmError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: not a PPM picture of the kind P6 with 8 bits: {reason}", .path.display())]
    Format { path: PathBuf, reason: &'static str },
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write {}", .path.display())]
    Encode { path: PathBuf, source: png::EncodingError },
}

/// A picture: three bytes a pixel, line by line.
#[derive(Debug, PartialEq, Eq)]
struct Picture<'a> {
    width: u32,
    height: u32,
    pixels: &'a [u8],
}

/// Converts a file.
pub(crate) fn convert(input: &Path, output: &Path) -> Result<(), PpmError> {
    let bytes = std::fs::read(input).map_err(|source| PpmError::Read { path: input.into(), source })?;
    let picture = parse(&bytes).map_err(|reason| PpmError::Format { path: input.into(), reason })?;
    let file = File::create(output).map_err(|source| PpmError::Write { path: output.into(), source })?;
    write(&picture, BufWriter::new(file)).map_err(|source| PpmError::Encode { path: output.into(), source })
}

fn write(picture: &Picture<'_>, target: impl io::Write) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(target, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.pixels)?;
    writer.finish()
}

fn parse(bytes: &[u8]) -> Result<Picture<'_>, &'static str> {
    let mut rest = bytes.strip_prefix(b"P6").ok_or("it does not begin with P6")?;
    let (width, height) = (number(&mut rest)?, number(&mut rest)?);
    if number(&mut rest)? != 255 {
        return Err("its greatest value is not 255");
    }
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
        return Err("its size is out of bounds");
    }
    let pixels = rest.get(1..).and_then(|rest| rest.get(..width * height * 3)).ok_or("it is too short")?;
    let side = |side: usize| u32::try_from(side).map_err(|_| "its size is out of bounds");
    Ok(Picture { width: side(width)?, height: side(height)?, pixels })
}

/// The next number of the head; blanks and comments before it are passed over.
fn number(rest: &mut &[u8]) -> Result<usize, &'static str> {
    loop {
        match rest.split_first() {
            Some((b'#', _)) => {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                *rest = rest.get(end..).unwrap_or_default();
            }
            Some((byte, after)) if byte.is_ascii_whitespace() => *rest = after,
            _ => break,
        }
    }
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).ok_or("its head is cut off")?;
    let (digits, after) = rest.split_at(end);
    *rest = after;
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or("its head is not made of numbers")
}

#[cfg(test)]
mod tests;
