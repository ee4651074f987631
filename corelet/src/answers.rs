//! What Cells answer and report, read as the real Core reads it (contract §6.1, §6.2).
//!
//! Contract: a missing or mistyped field that the real Core requires is an error that names the key; sizes are bytes, speeds bytes per second.

use cell::model::GuestId;
use cell::proto::message::{Key, Message};
use serde::Serialize;

/// A message lacks what the real Core requires.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A key is not there, in the map that it belongs to.
    #[error("{0} is missing or has another type")]
    Missing(Key),
    /// A list has the wrong length.
    #[error("{key} has {found} values where {expected} belong")]
    Length {
        /// Which list.
        key: Key,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// A value that the contract does not know.
    #[error("{key} has the unknown value {value}")]
    Value {
        /// Which field.
        key: Key,
        /// Its value.
        value: u64,
    },
}

/// Configuration of a guest and, from a status answer, what it uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuestAnswer {
    /// Full name.
    pub name: String,
    /// Its id, where the answer has it.
    pub id: Option<GuestId>,
    /// Owner.
    pub owner: String,
    /// Owner's group.
    pub group: String,
    /// Virtual CPUs.
    pub cores: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Disk sizes in bytes, system disk first.
    pub disks: Vec<u64>,
    /// Starts with the host.
    pub auto_start: bool,
    /// Its disks are ready.
    pub created: bool,
    /// Percent while not created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u64>,
    /// A QEMU process exists.
    pub running: bool,
    /// TCP port of VNC or SPICE.
    pub monitor_port: u64,
    /// Password of VNC or SPICE.
    pub monitor_secret: String,
    /// Address that the guest was seen to use.
    pub address: String,
    /// MAC address.
    pub hardware_address: String,
    /// When it was created, local time of the Cell.
    pub create_time: String,
    /// CPU priority: 0 high, 1 medium, 2 low.
    pub priority: u64,
    /// Read B/s, write B/s, read IOPS, write IOPS, receive B/s, send B/s; 0 = unlimited.
    pub limits: [u64; 6],
    /// What it uses; absent in an answer about the configuration alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<GuestUsage>,
}

/// What a guest uses at present.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GuestUsage {
    /// A media image is in its drive.
    pub media: bool,
    /// CPU percent 0..100 over all virtual CPUs.
    pub cpu: f64,
    /// Free memory in the guest.
    pub memory_available: u64,
    /// Free disk space in the guest.
    pub disk_available: u64,
    /// Bytes read since its start.
    pub bytes_read: u64,
    /// Bytes written since its start.
    pub bytes_written: u64,
    /// Bytes received since its start.
    pub bytes_received: u64,
    /// Bytes sent since its start.
    pub bytes_sent: u64,
}

impl GuestAnswer {
    /// Reads a get-guest answer.
    pub fn from_config(message: &Message) -> Result<Self, AnswerError> {
        Self::read(message, None)
    }

    /// Reads an instance-status answer.
    pub fn from_status(message: &Message) -> Result<Self, AnswerError> {
        let [memory_available, disk_available] = array(message, Key::Available)?;
        let [bytes_read, bytes_written, bytes_received, bytes_sent] = array(message, Key::IO)?;
        let media = *message.bool_params.get(&Key::Media).ok_or(AnswerError::Missing(Key::Media))?;
        let cpu = float(message, Key::Usage)?;
        let usage = GuestUsage { media, cpu, memory_available, disk_available, bytes_read, bytes_written, bytes_received, bytes_sent };
        Self::read(message, Some(usage))
    }

    fn read(message: &Message, usage: Option<GuestUsage>) -> Result<Self, AnswerError> {
        let optional = |key| message.string_params.get(&key).cloned().unwrap_or_default();
        let [auto_start] = array(message, Key::Option)?;
        let priority = message.uint_params.get(&Key::Priority).copied().unwrap_or_default();
        if priority > 2 {
            return Err(AnswerError::Value { key: Key::Priority, value: priority });
        }
        Ok(Self {
            name: text(message, Key::Name)?,
            id: optional(Key::Instance).parse().ok(),
            owner: text(message, Key::User)?,
            group: text(message, Key::Group)?,
            cores: number(message, Key::Core)?,
            memory: number(message, Key::Memory)?,
            disks: list(message, Key::Disk)?.clone(),
            auto_start: auto_start != 0,
            created: *message.bool_params.get(&Key::Enable).ok_or(AnswerError::Missing(Key::Enable))?,
            progress: message.uint_params.get(&Key::Progress).copied(),
            running: number(message, Key::Status)? != 0,
            monitor_port: message.uint_params.get(&Key::Monitor).copied().unwrap_or_default(),
            monitor_secret: text(message, Key::Secret)?,
            address: optional(Key::Address),
            hardware_address: optional(Key::Hardware),
            create_time: optional(Key::Create),
            priority,
            limits: match message.uint_array_params.contains_key(&Key::Limit) {
                true => array(message, Key::Limit)?,
                false => [0; 6],
            },
            usage,
        })
    }
}

/// A Cell's report of its host, every 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StatusReport {
    /// Logical CPUs.
    pub cores: u64,
    /// CPU percent 0..100 since the last report.
    pub cpu: f64,
    /// Free memory.
    pub memory_available: u64,
    /// Memory.
    pub memory_total: u64,
    /// Free disk space under the storage paths.
    pub disk_available: u64,
    /// Disk space under the storage paths.
    pub disk_total: u64,
    /// Bytes since the last report: disk read, disk written, net received, net sent.
    pub bytes: [u64; 4],
    /// Bytes per second: disk read, disk write, net receive, net send.
    pub speeds: [u64; 4],
}

impl StatusReport {
    /// Reads a report; the real Core ignores one without all of its lists in full length.
    pub fn from_message(message: &Message) -> Result<Self, AnswerError> {
        let [memory_available, memory_total] = array(message, Key::Memory)?;
        let [disk_available, disk_total] = array(message, Key::Disk)?;
        Ok(Self {
            cores: number(message, Key::Core)?,
            cpu: float(message, Key::Usage)?,
            memory_available,
            memory_total,
            disk_available,
            disk_total,
            bytes: array(message, Key::IO)?,
            speeds: array(message, Key::Speed)?,
        })
    }
}

/// Where a Cell keeps its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoragePaths {
    /// `local` or `nfs`.
    pub mode: &'static str,
    /// Paths of system disks.
    pub system: Vec<String>,
    /// Paths of data disks.
    pub data: Vec<String>,
}

impl StoragePaths {
    /// Reads a query-storage answer.
    pub fn from_message(message: &Message) -> Result<Self, AnswerError> {
        let mode = match number(message, Key::Mode)? {
            0 => "local",
            1 => "nfs",
            value => return Err(AnswerError::Value { key: Key::Mode, value }),
        };
        Ok(Self { mode, system: texts(message, Key::System)?, data: texts(message, Key::Data)? })
    }
}

/// One shared storage pool of a Cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachedStorage {
    /// Its name.
    pub name: String,
    /// It is mounted.
    pub attached: bool,
    /// What is wrong with it, empty when nothing is.
    pub error: String,
}

/// Reads a get-cell answer.
pub fn attached_storage(message: &Message) -> Result<Vec<AttachedStorage>, AnswerError> {
    let none = Vec::new();
    let names = message.string_array_params.get(&Key::Storage).unwrap_or(&none);
    let errors = message.string_array_params.get(&Key::Error).unwrap_or(&none);
    let no_flags = Vec::new();
    let flags = message.uint_array_params.get(&Key::Attach).unwrap_or(&no_flags);
    for (key, found) in [(Key::Error, errors.len()), (Key::Attach, flags.len())] {
        if found != names.len() {
            return Err(AnswerError::Length { key, found, expected: names.len() });
        }
    }
    let pools = names.iter().zip(errors).zip(flags);
    Ok(pools.map(|((name, error), flag)| AttachedStorage { name: name.clone(), attached: *flag != 0, error: error.clone() }).collect())
}

/// What a Cell tells of a disk image that it makes (contract §6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskImageUpdate {
    /// So much of it is done.
    Progress {
        /// 0..=100.
        percent: u64,
    },
    /// It is on the image server.
    Finished {
        /// Bytes.
        size: u64,
    },
}

impl DiskImageUpdate {
    /// Reads a successful event.
    pub fn from_message(message: &Message) -> Result<Self, AnswerError> {
        let finished = message.bool_params.get(&Key::Enable).copied().ok_or(AnswerError::Missing(Key::Enable))?;
        let percent = number(message, Key::Progress)?;
        Ok(match finished {
            true => Self::Finished { size: number(message, Key::Size)? },
            false => Self::Progress { percent },
        })
    }
}

pub(crate) fn text(message: &Message, key: Key) -> Result<String, AnswerError> {
    message.string_params.get(&key).cloned().ok_or(AnswerError::Missing(key))
}

pub(crate) fn number(message: &Message, key: Key) -> Result<u64, AnswerError> {
    message.uint_params.get(&key).copied().ok_or(AnswerError::Missing(key))
}

fn float(message: &Message, key: Key) -> Result<f64, AnswerError> {
    message.float_params.get(&key).copied().ok_or(AnswerError::Missing(key))
}

fn texts(message: &Message, key: Key) -> Result<Vec<String>, AnswerError> {
    message.string_array_params.get(&key).cloned().ok_or(AnswerError::Missing(key))
}

fn list(message: &Message, key: Key) -> Result<&Vec<u64>, AnswerError> {
    message.uint_array_params.get(&key).ok_or(AnswerError::Missing(key))
}

fn array<const N: usize>(message: &Message, key: Key) -> Result<[u64; N], AnswerError> {
    let list = list(message, key)?;
    list.as_slice().try_into().map_err(|_| AnswerError::Length { key, found: list.len(), expected: N })
}

#[cfg(test)]
mod tests;
