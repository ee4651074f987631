//! The one dispatch table: which message of the Core is handled where (contract §4.1).
//!
//! Contract: each handler reads its parameters first, then checks the state, then changes the host with an undo for each step, then
//! the books, and answers last; events follow the answer.

mod add_guest_rule;
mod answers;
pub(in crate::txn) mod attach_instance;
pub(in crate::txn) mod change_address_pool;
mod change_guest_rule_default_action;
mod change_guest_rule_order;
mod create_disk_image;
mod create_guest;
mod create_snapshot;
mod delete_guest;
mod delete_snapshot;
mod detach_instance;
mod eject_media;
mod get_auth;
mod get_compute_cell;
mod get_guest;
mod get_guest_rule;
mod get_instance_status;
mod get_snapshot;
mod image;
mod insert_media;
pub(in crate::txn) mod modify_auth;
mod modify_auto_start;
mod modify_cell_storage;
mod modify_core;
mod modify_disk_threshold;
mod modify_guest_name;
mod modify_guest_rule;
mod modify_memory;
mod modify_network_threshold;
mod modify_priority;
mod prepare_compute_pool;
mod query_cell_storage;
mod query_snapshot;
pub(in crate::txn) mod remains;
mod remove_compute_cell;
mod remove_guest_rule;
mod reset_secret;
mod reset_system;
mod resize_disk;
mod restore_snapshot;
mod rules;
mod setting;
mod shared_storage;
mod shrink_disk;
mod start_instance;
mod stop_instance;
pub(in crate::txn) mod welcome;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::proto::message::MessageId;

use super::{Context, Failure};

/// The work of one transaction.
pub type Work = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Begins the work.
    pub run: fn(Arc<Context>) -> Work,
    /// Id of the answer; `None` for an event that is not answered.
    pub answer: Option<MessageId>,
    /// It changes something: its begin and end are logged.
    pub changes: bool,
}

macro_rules! dispatch {
    ($($id:ident => $module:ident, $answer:expr, $kind:ident;)+) => {
        /// The entry of a message that this node handles when it comes from the Core.
        pub fn find(id: MessageId) -> Option<Entry> {
            match id {
                $(MessageId::$id => Some(Entry {
                    run: |context| Box::pin($module::handle(context)),
                    answer: $answer,
                    changes: dispatch!(@$kind),
                }),)+
                _ => None,
            }
        }

        /// Every message that is handled.
        pub const HANDLED: &[MessageId] = &[$(MessageId::$id),+];

        /// The file of each, without its ending.
        #[cfg(test)]
        pub(super) const FILES: &[(MessageId, &str)] = &[$((MessageId::$id, stringify!($module))),+];
    };
    (@change) => { true };
    (@query) => { false };
}

dispatch! {
    COMPUTE_POOL_READY_EVENT => prepare_compute_pool, Some(MessageId::COMPUTE_CELL_READY_EVENT), change;
    COMPUTE_CELL_REMOVED_EVENT => remove_compute_cell, None, change;
    ADDRESS_POOL_CHANGED_EVENT => change_address_pool, None, change;
    GET_COMPUTE_POOL_CELL_REQUEST => get_compute_cell, Some(MessageId::GET_COMPUTE_POOL_CELL_RESPONSE), query;
    QUERY_CELL_STORAGE_REQUEST => query_cell_storage, Some(MessageId::QUERY_CELL_STORAGE_RESPONSE), query;
    MODIFY_CELL_STORAGE_REQUEST => modify_cell_storage, Some(MessageId::MODIFY_CELL_STORAGE_RESPONSE), change;
    CREATE_GUEST_REQUEST => create_guest, Some(MessageId::CREATE_GUEST_RESPONSE), change;
    DELETE_GUEST_REQUEST => delete_guest, Some(MessageId::DELETE_GUEST_RESPONSE), change;
    GET_GUEST_REQUEST => get_guest, Some(MessageId::GET_GUEST_RESPONSE), query;
    GET_INSTANCE_STATUS_REQUEST => get_instance_status, Some(MessageId::GET_INSTANCE_STATUS_RESPONSE), query;
    START_INSTANCE_REQUEST => start_instance, Some(MessageId::START_INSTANCE_RESPONSE), change;
    RESET_SYSTEM_REQUEST => reset_system, Some(MessageId::RESET_SYSTEM_RESPONSE), change;
    CREATE_DISK_IMAGE_REQUEST => create_disk_image, Some(MessageId::CREATE_DISK_IMAGE_RESPONSE), change;
    ATTACH_INSTANCE_REQUEST => attach_instance, Some(MessageId::ATTACH_INSTANCE_RESPONSE), change;
    DETACH_INSTANCE_REQUEST => detach_instance, Some(MessageId::DETACH_INSTANCE_RESPONSE), change;
    STOP_INSTANCE_REQUEST => stop_instance, Some(MessageId::STOP_INSTANCE_RESPONSE), change;
    RESIZE_DISK_REQUEST => resize_disk, Some(MessageId::RESIZE_DISK_RESPONSE), change;
    SHRINK_DISK_REQUEST => shrink_disk, Some(MessageId::SHRINK_DISK_RESPONSE), change;
    QUERY_SNAPSHOT_REQUEST => query_snapshot, Some(MessageId::QUERY_SNAPSHOT_RESPONSE), query;
    GET_SNAPSHOT_REQUEST => get_snapshot, Some(MessageId::GET_SNAPSHOT_RESPONSE), query;
    CREATE_SNAPSHOT_REQUEST => create_snapshot, Some(MessageId::CREATE_SNAPSHOT_RESPONSE), change;
    RESTORE_SNAPSHOT_REQUEST => restore_snapshot, Some(MessageId::RESTORE_SNAPSHOT_RESPONSE), change;
    DELETE_SNAPSHOT_REQUEST => delete_snapshot, Some(MessageId::DELETE_SNAPSHOT_RESPONSE), change;
    MODIFY_GUEST_NAME_REQUEST => modify_guest_name, Some(MessageId::MODIFY_GUEST_NAME_RESPONSE), change;
    MODIFY_CORE_REQUEST => modify_core, Some(MessageId::MODIFY_CORE_RESPONSE), change;
    MODIFY_MEMORY_REQUEST => modify_memory, Some(MessageId::MODIFY_MEMORY_RESPONSE), change;
    MODIFY_PRIORITY_REQUEST => modify_priority, Some(MessageId::MODIFY_PRIORITY_RESPONSE), change;
    MODIFY_DISK_THRESHOLD_REQUEST => modify_disk_threshold, Some(MessageId::MODIFY_DISK_THRESHOLD_RESPONSE), change;
    MODIFY_NETWORK_THRESHOLD_REQUEST => modify_network_threshold, Some(MessageId::MODIFY_NETWORK_THRESHOLD_RESPONSE), change;
    MODIFY_AUTO_START_REQUEST => modify_auto_start, Some(MessageId::MODIFY_AUTO_START_RESPONSE), change;
    MODIFY_AUTH_REQUEST => modify_auth, Some(MessageId::MODIFY_AUTH_RESPONSE), change;
    GET_AUTH_REQUEST => get_auth, Some(MessageId::GET_AUTH_RESPONSE), query;
    INSERT_MEDIA_REQUEST => insert_media, Some(MessageId::INSERT_MEDIA_RESPONSE), change;
    EJECT_MEDIA_REQUEST => eject_media, Some(MessageId::EJECT_MEDIA_RESPONSE), change;
    RESET_SECRET_REQUEST => reset_secret, Some(MessageId::RESET_SECRET_RESPONSE), change;
    GET_GUEST_RULE_REQUEST => get_guest_rule, Some(MessageId::GET_GUEST_RULE_RESPONSE), query;
    ADD_GUEST_RULE_REQUEST => add_guest_rule, Some(MessageId::ADD_GUEST_RULE_RESPONSE), change;
    MODIFY_GUEST_RULE_REQUEST => modify_guest_rule, Some(MessageId::MODIFY_GUEST_RULE_RESPONSE), change;
    REMOVE_GUEST_RULE_REQUEST => remove_guest_rule, Some(MessageId::REMOVE_GUEST_RULE_RESPONSE), change;
    CHANGE_GUEST_RULE_ORDER_REQUEST => change_guest_rule_order, Some(MessageId::CHANGE_GUEST_RULE_ORDER_RESPONSE), change;
    CHANGE_GUEST_RULE_DEFAULT_ACTION_REQUEST => change_guest_rule_default_action,
        Some(MessageId::CHANGE_GUEST_RULE_DEFAULT_ACTION_RESPONSE), change;
}

#[cfg(test)]
mod tests;
