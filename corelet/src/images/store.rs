//! The directory of images.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;
use sha1::{Digest, Sha1};

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageInfo {
    /// File name.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// SHA-1, lower-case hex.
    pub signature: String,
}

/// A file's version and its hash.
type Hashed = ((u64, SystemTime), String);

#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// Hashes that were computed, each for one version of its file.
    hashes: Mutex<HashMap<String, Hashed>>,
}

impl Store {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        std::fs::read_dir(directory)?;
        Ok(Self { directory: directory.to_owned(), hashes: Mutex::default() })
    }

    pub(super) fn list(&self) -> io::Result<Vec<ImageInfo>> {
        let mut images = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let id = entry?.file_name().to_string_lossy().into_owned();
            if self.path(&id).is_some_and(|path| path.is_file()) {
                images.push(self.open_image(&id)?.1);
            }
        }
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(images)
    }

    /// Where an image is or is to be; none for what can't be an id.
    pub(super) fn path(&self, id: &str) -> Option<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (!id.is_empty() && !id.starts_with('.') && id.chars().all(plain)).then(|| self.directory.join(id))
    }

    /// An image and what is known of it; hashes it when it is new. Blocks.
    pub(super) fn open_image(&self, id: &str) -> io::Result<(File, ImageInfo)> {
        let path = self.path(id).ok_or(io::ErrorKind::InvalidInput)?;
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let version = (metadata.len(), metadata.modified()?);
        let known = self.hashes.lock().get(id).filter(|(hashed, _)| *hashed == version).map(|(_, hash)| hash.clone());
        let signature = match known {
            Some(hash) => hash,
            None => {
                let hash = hash(&file)?;
                self.hashes.lock().insert(id.to_owned(), (version, hash.clone()));
                hash
            }
        };
        Ok((file, ImageInfo { id: id.to_owned(), size: version.0, signature }))
    }
}

/// SHA-1 of a file from where it stands, lower-case hex. Blocks.
pub(super) fn hash(mut file: &File) -> io::Result<String> {
    let mut hash = Sha1::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
