//! How a guest looks in an answer (contract §6.1, §6.2).

use crate::model::{Guest, PowerState};
use crate::proto::message::{Key, Message};

/// Adds the "config" fields of a guest (table of GetInstanceStatusResponse).
pub(super) fn with_config(answer: Message, guest: &Guest) -> Message {
    let config = &guest.config;
    let mut answer = answer
        .string(Key::Name, &config.name)
        .string(Key::Instance, config.id.to_string())
        .string(Key::User, &config.user)
        .string(Key::Group, &config.group)
        .string(Key::System, config.operating_system())
        .uint(Key::Core, u64::from(config.cores))
        .uints(Key::Option, [u64::from(config.auto_start)])
        .bool(Key::Enable, guest.created)
        .uint(Key::Status, power_to_wire(guest.power))
        .uint(Key::Monitor, u64::from(config.monitor_port))
        .string(Key::Secret, config.monitor_secret.reveal())
        .uint(Key::Memory, config.memory)
        .uints(Key::Disk, config.disks.as_slice())
        .string(Key::Address, guest.address.map(|address| address.to_string()).unwrap_or_default())
        .string(Key::Create, &config.create_time)
        .string(Key::Hardware, &config.hardware_address)
        .uint(Key::Priority, u64::from(config.cpu_priority))
        .uints(Key::Limit, config.limits())
        .string(Key::Internal, &config.internal_address)
        .string(Key::External, &config.external_address);
    if !guest.created {
        answer = answer.uint(Key::Progress, u64::from(guest.progress));
    }
    answer
}

/// 0 stopped, 1 running (contract §15); the Core has no word for a lost guest, which does not run.
pub(super) fn power_to_wire(power: PowerState) -> u64 {
    u64::from(power == PowerState::Running)
}
