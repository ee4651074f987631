//! The directory that belongs to one node: configuration, data, log and pidfile.
//!
//! Contract: the layout and the modes are the reference's (contract §8), so that a directory can be taken over and handed back. What exists
//! keeps its mode.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Mode of `config/`, `data/` and `log/` (contract §8).
const DIR_MODE: u32 = 0o740;

/// Names the home where no option does.
pub const HOME_VARIABLE: &str = "CELL_HOME";

/// An existing directory with the node's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

/// The home can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The executable's path is unknown and no home was given.
    #[error("cannot tell where this program lies; name the home directory with --home DIR or CELL_HOME")]
    Executable(#[source] io::Error),
    /// The executable lies among other programs.
    #[error("{} holds programs and cannot be the home directory; name one with --home DIR or CELL_HOME", .0.display())]
    SharedBin(PathBuf),
    /// The directory can't be opened.
    #[error("home directory {} cannot be used; create it first or name another with --home DIR", .0.display())]
    Missing(PathBuf, #[source] io::Error),
    /// It is a file.
    #[error("home {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// A directory in it can't be made.
    #[error("cannot create {}", .0.display())]
    Create(PathBuf, #[source] io::Error),
}

impl Home {
    /// The given directory or, as with the reference, the one that holds the executable.
    pub fn locate(given: Option<&Path>) -> Result<Self, HomeError> {
        match given {
            Some(dir) => Self::at(dir),
            None => {
                let program = std::env::current_exe().map_err(HomeError::Executable)?;
                let dir = program.parent().unwrap_or(Path::new("/"));
                // `/usr/bin/config` is nothing that anybody wants.
                if dir.ends_with("bin") || dir.ends_with("sbin") {
                    return Err(HomeError::SharedBin(dir.to_owned()));
                }
                Self::at(dir)
            }
        }
    }

    /// This directory, made absolute: the service changes its working directory.
    pub fn at(dir: &Path) -> Result<Self, HomeError> {
        let absolute = dir.canonicalize().map_err(|error| HomeError::Missing(dir.to_owned(), error))?;
        if absolute.is_dir() {
            Ok(Self(absolute))
        } else {
            Err(HomeError::NotDirectory(absolute))
        }
    }

    /// Creates `config/`, `data/` and `log/` where they are missing.
    pub fn prepare(&self) -> Result<(), HomeError> {
        for dir in [self.config_dir(), self.data_dir(), self.log_dir()] {
            match DirBuilder::new().mode(DIR_MODE).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                Err(error) => return Err(HomeError::Create(dir, error)),
            }
        }
        Ok(())
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// `config/`.
    pub fn config_dir(&self) -> PathBuf {
        self.0.join("config")
    }

    /// `config/domain.cfg` (contract §8.1).
    pub fn domain_cfg(&self) -> PathBuf {
        self.config_dir().join("domain.cfg")
    }

    /// `config/cell.cfg`, our own settings; optional.
    pub fn cell_cfg(&self) -> PathBuf {
        self.config_dir().join("cell.cfg")
    }

    /// `data/` (contract §8.2 to §8.5).
    pub fn data_dir(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Below it shared pools are mounted: `pools/` beside the home, wherever the service was started from (contract §8, §14 D20).
    pub fn pools_dir(&self) -> PathBuf {
        self.0.parent().unwrap_or(&self.0).join("pools")
    }

    /// `log/`.
    pub fn log_dir(&self) -> PathBuf {
        self.0.join("log")
    }

    /// `log/cell.log`, always the live file.
    pub fn log_file(&self) -> PathBuf {
        self.log_dir().join("cell.log")
    }

    /// `log/audit.log`, who had what changed.
    pub fn audit_file(&self) -> PathBuf {
        self.log_dir().join("audit.log")
    }

    /// `cell.pid`.
    pub fn pid_file(&self) -> PathBuf {
        self.0.join("cell.pid")
    }

    /// `cell.sock`, where a running service tells how it is.
    pub fn status_socket(&self) -> PathBuf {
        self.0.join("cell.sock")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directories_are_made_with_the_reference_modes_and_kept_when_there() {
        let scratch = tempfile::tempdir().unwrap();
        let home = Home::at(scratch.path()).unwrap();
        std::fs::create_dir(home.log_dir()).unwrap();
        std::fs::set_permissions(home.log_dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
        home.prepare().unwrap();
        home.prepare().unwrap();
        let mode = |dir: PathBuf| dir.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(home.config_dir()), 0o740);
        assert_eq!(mode(home.data_dir()), 0o740);
        assert_eq!(mode(home.log_dir()), 0o700);
    }

    #[test]
    fn d20_shared_pools_are_beside_the_home_wherever_the_service_was_started() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("cell")).unwrap();
        std::os::unix::fs::symlink("cell", root.join("link")).unwrap();
        for way in ["cell", "cell/../cell", "cell/.", "link"] {
            assert_eq!(Home::at(&root.join(way)).unwrap().pools_dir(), root.join("pools"), "{way}");
        }
    }

    #[test]
    fn a_home_that_is_missing_or_a_file_is_refused_by_name() {
        let scratch = tempfile::tempdir().unwrap();
        let missing = scratch.path().join("nowhere");
        assert!(Home::at(&missing).unwrap_err().to_string().contains("nowhere"));
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Home::at(&file), Err(HomeError::NotDirectory(_))));
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let home = Home::at(scratch.path()).unwrap();
        std::fs::write(home.data_dir(), "").unwrap();
        assert!(home.prepare().unwrap_err().to_string().ends_with("data"));
    }
}
