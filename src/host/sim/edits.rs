//! Changes of the simulated host's domains.

use super::super::{Applied, Change, DomainEdit, ErrorKind, HostError, Result};
use super::world::{exists, World};
use crate::model::{GuestConfig, GuestId, PowerState};

impl World {
    /// Makes an edit in a domain's definition, and in what runs where libvirt could.
    pub(super) fn reconfigure(&mut self, id: GuestId, edit: &DomainEdit) -> Result<Applied> {
        if let DomainEdit::Name(name) = edit {
            if self.state.domains.iter().any(|(other, domain)| *other != id && domain.config.name == *name) {
                return Err(exists("domain", name));
            }
        }
        let domain = self.get_mut(id)?;
        let invalid = match edit {
            DomainEdit::Name(name) => name.is_empty(),
            DomainEdit::Cores(cores) => *cores == 0,
            DomainEdit::Memory(bytes) => *bytes == 0,
            DomainEdit::Priority(priority) => *priority > 2,
            _ => false,
        };
        if invalid {
            return Err(HostError::new(ErrorKind::Invalid, format!("domain {id} can't be changed: {edit:?}")));
        }
        let renamed = matches!(edit, DomainEdit::Name(name) if *name != domain.config.name);
        if renamed && domain.power == PowerState::Running {
            return Err(HostError::new(ErrorKind::Busy, format!("domain {id} can't be renamed: it is running")));
        }
        make(&mut domain.config, edit);
        match (edit, &mut domain.live) {
            (DomainEdit::Cores(_) | DomainEdit::Memory(_), Some(_)) => Ok(Applied::AtNextStart),
            (_, Some(live)) => {
                make(live, edit);
                Ok(Applied::Now)
            }
            (_, None) => Ok(Applied::Now),
        }
    }

    /// Starts a domain with a file in its drive, which has to be there.
    pub(super) fn start_with_media(&mut self, id: GuestId, file: &str) -> Result<Change> {
        self.has_file(file)?;
        let change = self.start(id)?;
        if change == Change::Changed {
            self.get_mut(id)?.media = Some(file.to_owned());
        }
        Ok(change)
    }

    /// Changes what is in the drive of a running domain.
    pub(super) fn set_media(&mut self, id: GuestId, file: Option<&str>) -> Result<Change> {
        self.running(id)?;
        file.map_or(Ok(()), |file| self.has_file(file))?;
        let domain = self.get_mut(id)?;
        let file = file.map(str::to_owned);
        Ok(if std::mem::replace(&mut domain.media, file.clone()) == file { Change::Unchanged } else { Change::Changed })
    }

    fn has_file(&self, file: &str) -> Result<()> {
        match self.state.files.contains_key(file) {
            true => Ok(()),
            false => Err(HostError::new(ErrorKind::Failed, format!("there is no file {file}"))),
        }
    }
}

fn make(config: &mut GuestConfig, edit: &DomainEdit) {
    match edit {
        DomainEdit::Name(name) => config.name.clone_from(name),
        DomainEdit::Cores(cores) => config.cores = *cores,
        DomainEdit::Memory(bytes) => config.memory = *bytes,
        DomainEdit::Priority(priority) => config.cpu_priority = *priority,
        DomainEdit::DiskLimits { read_speed, write_speed, read_iops, write_iops } => {
            (config.read_speed, config.write_speed) = (*read_speed, *write_speed);
            (config.read_iops, config.write_iops) = (*read_iops, *write_iops);
        }
        DomainEdit::NetworkLimits { receive_speed, send_speed } => {
            (config.receive_speed, config.send_speed) = (*receive_speed, *send_speed);
        }
        DomainEdit::MonitorSecret(secret) => config.monitor_secret = secret.clone(),
    }
}
