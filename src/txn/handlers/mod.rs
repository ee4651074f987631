//! The one dispatch table: which message of the Core is handled where (contract §4.1).
//!
//! Contract: each handler reads its parameters first, then checks the state, then changes the host with an undo for each step, then
//! the books, and answers last; events follow the answer.

mod answers;
mod attach_instance;
mod change_address_pool;
mod create_disk_image;
mod create_guest;
mod delete_guest;
mod detach_instance;
mod get_compute_cell;
mod get_guest;
mod get_instance_status;
mod image;
mod modify_cell_storage;
mod prepare_compute_pool;
mod query_cell_storage;
pub(in crate::txn) mod remains;
mod remove_compute_cell;
mod reset_system;
mod shared_storage;
mod start_instance;
mod stop_instance;

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
}

#[cfg(test)]
mod tests;
