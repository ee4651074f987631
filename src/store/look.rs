//! A disk on which nothing is ever written: what would be changed is left as it is.

use std::fs;
use std::io;
use std::path::Path;

use super::disk::Disk;

/// Reads what is there and says yes to everything else.
pub(super) struct Onlooker;

impl Disk for Onlooker {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn create(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn append(&self, _: &Path, _: &[u8], _: bool) -> io::Result<()> {
        Ok(())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn cut(&self, _: &Path, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::store::{Notice, Store};

    #[test]
    fn a_look_tells_what_a_start_would_do_and_does_none_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("storage.data"), "{").unwrap();
        fs::write(path("storage.data.bak"), r#"{"pools":{},"groups":{},"current_pool":"nas"}"#).unwrap();
        fs::write(path("network.data.tmp"), "half").unwrap();
        let loaded = Store::look(directory.path(), "br0").unwrap();
        assert_eq!(loaded.storage.current_pool, "nas");
        assert!(matches!(loaded.notices.as_slice(), [Notice::Damaged { recovered: true, .. }]), "{:?}", loaded.notices);
        let mut names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["network.data.tmp", "storage.data", "storage.data.bak"]);
        assert_eq!(fs::read(path("storage.data")).unwrap(), b"{");
        let empty = Store::look(&path("absent"), "br9").unwrap();
        assert_eq!((empty.network.default_bridge.as_str(), empty.notices.len()), ("br9", 0));
        assert!(!path("absent").exists());
    }

    use std::fs;
}
