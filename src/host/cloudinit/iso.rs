//! A small ISO 9660 image with Rock Ridge and Joliet names: a few files in the root directory.
//!
//! Contract: the same files give the same bytes (no dates, no serial numbers), so that an image can be compared with the one on the disk; and no
//! program has to be there for it. The libraries that write such images put the time into them, and the programs are not installed everywhere.
//! Layout (ECMA-119, one sector is 2048 bytes): 16 descriptor, 17 Joliet's descriptor, 18 end, 19–20 path tables, 21–22 Joliet's,
//! 23 root directory, 24 Joliet's, then the files.

const SECTOR: usize = 2048;
const PATH_TABLES: u32 = 19;
const JOLIET_PATH_TABLES: u32 = 21;
const ROOT: u32 = 23;
const JOLIET_ROOT: u32 = 24;
const FILES: u32 = 25;
/// Length of a path table with nothing but the root.
const PATH_TABLE_LENGTH: u32 = 10;
/// 1 January 1980, UTC: as good as any.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
/// Identifiers of the entries "." and ".." of a directory.
const SELF: &[u8] = &[0];
const PARENT: &[u8] = &[1];

/// A file of the image.
pub struct File<'a> {
    /// Its name: ASCII, and no two files have the same first eight characters. At most a dozen files fit.
    pub name: &'a str,
    /// What is in it.
    pub content: &'a [u8],
}

/// An image with these files and this volume id (at most 16 characters).
pub fn image(volume: &str, files: &[File<'_>]) -> Vec<u8> {
    let mut next = FILES;
    let mut placed: Vec<Placed<'_>> = files
        .iter()
        .map(|file| {
            let at = next;
            next += sectors(file.content.len());
            Placed { file, at }
        })
        .collect();
    let end = next;
    let contents: Vec<&[u8]> = files.iter().map(|file| file.content).collect();
    let mut image = vec![0; 16 * SECTOR];
    sector(&mut image, &descriptor(Names::Plain, volume, end));
    sector(&mut image, &descriptor(Names::Joliet, volume, end));
    sector(&mut image, b"\xffCD001\x01");
    for root in [ROOT, JOLIET_ROOT] {
        sector(&mut image, &path_table(root.to_le_bytes(), 1_u16.to_le_bytes()));
        sector(&mut image, &path_table(root.to_be_bytes(), 1_u16.to_be_bytes()));
    }
    // Readers look names up by binary search: each directory is in the order of its own names.
    for names in [Names::Plain, Names::Joliet] {
        placed.sort_by_key(|placed| names.identifier(placed.file.name));
        sector(&mut image, &directory(names, &placed));
    }
    for content in contents {
        sector(&mut image, content);
    }
    image
}

struct Placed<'a> {
    file: &'a File<'a>,
    at: u32,
}

/// The two directories that point to the same files.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    /// 8.3 names with Rock Ridge's true names beside them.
    Plain,
    /// Joliet's UCS-2 names.
    Joliet,
}

impl Names {
    fn root(self) -> u32 {
        match self {
            Self::Plain => ROOT,
            Self::Joliet => JOLIET_ROOT,
        }
    }

    fn identifier(self, name: &str) -> Vec<u8> {
        match self {
            Self::Plain => {
                let short = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).take(8);
                short.chain(".;1".chars()).collect::<String>().into_bytes()
            }
            // Without a version, as other writers do: some readers show it.
            Self::Joliet => ucs2(name),
        }
    }

    /// A text of a fixed length in a descriptor.
    fn field(self, text: &str, length: usize) -> Vec<u8> {
        let (mut bytes, blank) = match self {
            Self::Plain => (text.as_bytes().to_vec(), b" ".to_vec()),
            Self::Joliet => (ucs2(text), ucs2(" ")),
        };
        bytes.extend(blank.iter().cycle().take(length.saturating_sub(bytes.len())));
        bytes.truncate(length);
        bytes
    }
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// Appends bytes and fills their last sector.
fn sector(image: &mut Vec<u8>, bytes: &[u8]) {
    image.extend_from_slice(bytes);
    image.resize(image.len().next_multiple_of(SECTOR), 0);
}

fn sectors(length: usize) -> u32 {
    u32::try_from(length.div_ceil(SECTOR)).unwrap_or(u32::MAX)
}

fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

fn both32(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

/// Primary or supplementary volume descriptor (ECMA-119 §8.4, §8.5).
fn descriptor(names: Names, volume: &str, end: u32) -> Vec<u8> {
    let (kind, escapes, tables): (u8, &[u8], u32) = match names {
        Names::Plain => (1, b"", PATH_TABLES),
        Names::Joliet => (2, b"%/E", JOLIET_PATH_TABLES),
    };
    let mut bytes = vec![kind];
    bytes.extend_from_slice(b"CD001\x01\0");
    bytes.extend(names.field("LINUX", 32));
    bytes.extend(names.field(volume, 32));
    bytes.extend([0; 8]);
    bytes.extend(both32(end));
    let mut field = escapes.to_vec();
    field.resize(32, 0);
    bytes.extend(field);
    bytes.extend(both16(1));
    bytes.extend(both16(1));
    bytes.extend(both16(2048));
    bytes.extend(both32(PATH_TABLE_LENGTH));
    bytes.extend(tables.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend((tables + 1).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(record(SELF, names.root(), SECTOR, true, &[]));
    // Volume set, publisher, preparer, application; then three file names.
    for length in [128, 128, 128, 128, 37, 37, 37] {
        bytes.extend(names.field("", length));
    }
    // Created, modified, expires, effective: not given.
    for _ in 0..4 {
        bytes.extend(b"0000000000000000\0");
    }
    bytes.push(1);
    bytes
}

fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0], root.as_slice(), &parent, &[0, 0]].concat()
}

fn directory(names: Names, files: &[Placed<'_>]) -> Vec<u8> {
    let root = names.root();
    let rock_ridge = |entries: Vec<Vec<u8>>| if names == Names::Plain { entries.concat() } else { Vec::new() };
    let mut bytes = record(SELF, root, SECTOR, true, &rock_ridge(vec![sharing(), posix(0o040_555, 2), extension()]));
    bytes.extend(record(PARENT, root, SECTOR, true, &rock_ridge(vec![posix(0o040_555, 2)])));
    for Placed { file, at } in files {
        let more = rock_ridge(vec![posix(0o100_444, 1), name(file.name)]);
        bytes.extend(record(&names.identifier(file.name), *at, file.content.len(), false, &more));
    }
    bytes
}

/// A directory record (ECMA-119 §9.1) with its system use area.
fn record(identifier: &[u8], at: u32, length: usize, directory: bool, more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(both32(at));
    bytes.extend(both32(u32::try_from(length).unwrap_or(u32::MAX)));
    bytes.extend(DATE);
    bytes.extend([if directory { 2 } else { 0 }, 0, 0]);
    bytes.extend(both16(1));
    bytes.push(short(identifier.len()));
    bytes.extend_from_slice(identifier);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes.extend_from_slice(more);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let total = short(bytes.len());
    if let Some(first) = bytes.first_mut() {
        *first = total;
    }
    bytes
}

fn short(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// An entry of a system use area (SUSP §4): signature, length, version 1, data.
fn entry(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
    [signature.as_slice(), &[short(data.len() + 4), 1], data].concat()
}

/// SP: this volume has system use areas.
fn sharing() -> Vec<u8> {
    entry(b"SP", &[0xbe, 0xef, 0])
}

/// ER: they are Rock Ridge's.
fn extension() -> Vec<u8> {
    const RRIP: &[u8] = b"RRIP_1991A";
    entry(b"ER", &[&[short(RRIP.len()), 0, 0, 1], RRIP].concat())
}

/// PX: mode and links; owner and group are root.
fn posix(mode: u32, links: u32) -> Vec<u8> {
    entry(b"PX", &[both32(mode), both32(links), both32(0), both32(0)].concat())
}

/// NM: the true name.
fn name(name: &str) -> Vec<u8> {
    entry(b"NM", &[&[0], name.as_bytes()].concat())
}
