//! Message ids (contract §4): operation << 16 + resource << 8 + kind; kind 0 request, 1 response, 2 event.

/// Id of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub u32);

macro_rules! ids {
    ($($number:literal $name:ident $text:literal),+ $(,)?) => {
        #[allow(missing_docs)] // the names are the contract's; §6 says what each message carries
        impl MessageId {
            $(pub const $name: MessageId = MessageId($number);)+

            /// The contract's name of the message.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($text),)+
                    _ => None,
                }
            }

            /// The message with this name in the contract; the case of letters does not matter.
            pub fn from_name(name: &str) -> Option<Self> {
                [$(MessageId($number)),+].into_iter().find(|id| id.name().is_some_and(|own| own.eq_ignore_ascii_case(name)))
            }
        }
    };
}

impl MessageId {
    /// True for a request, which always gets an answer.
    pub const fn is_request(self) -> bool {
        self.0 & 0xff == 0
    }

    /// The id that answers a request: the same operation and resource with kind 1.
    pub const fn response(self) -> MessageId {
        MessageId((self.0 & !0xff) | 1)
    }
}

ids! {
    0x00000500 CREATE_GUEST_REQUEST "CreateGuestRequest",
    0x00000501 CREATE_GUEST_RESPONSE "CreateGuestResponse",
    0x00000900 CREATE_DISK_IMAGE_REQUEST "CreateDiskImageRequest",
    0x00000901 CREATE_DISK_IMAGE_RESPONSE "CreateDiskImageResponse",
    0x00001000 CREATE_SNAPSHOT_REQUEST "CreateSnapshotRequest",
    0x00001001 CREATE_SNAPSHOT_RESPONSE "CreateSnapshotResponse",
    0x00010202 COMPUTE_POOL_READY_EVENT "ComputePoolReadyEvent",
    0x00010302 COMPUTE_CELL_READY_EVENT "ComputeCellReadyEvent",
    0x00010500 DELETE_GUEST_REQUEST "DeleteGuestRequest",
    0x00010501 DELETE_GUEST_RESPONSE "DeleteGuestResponse",
    0x00011000 DELETE_SNAPSHOT_REQUEST "DeleteSnapshotRequest",
    0x00011001 DELETE_SNAPSHOT_RESPONSE "DeleteSnapshotResponse",
    0x00020102 CONNECTION_KEEP_ALIVE_EVENT "ConnectionKeepAliveEvent",
    0x00020C00 MODIFY_CORE_REQUEST "ModifyCoreRequest",
    0x00020C01 MODIFY_CORE_RESPONSE "ModifyCoreResponse",
    0x00020D00 MODIFY_MEMORY_REQUEST "ModifyMemoryRequest",
    0x00020D01 MODIFY_MEMORY_RESPONSE "ModifyMemoryResponse",
    0x00020F00 MODIFY_AUTH_REQUEST "ModifyAuthRequest",
    0x00020F01 MODIFY_AUTH_RESPONSE "ModifyAuthResponse",
    0x00021700 MODIFY_GUEST_NAME_REQUEST "ModifyGuestNameRequest",
    0x00021701 MODIFY_GUEST_NAME_RESPONSE "ModifyGuestNameResponse",
    0x00021800 MODIFY_PRIORITY_REQUEST "ModifyPriorityRequest",
    0x00021801 MODIFY_PRIORITY_RESPONSE "ModifyPriorityResponse",
    0x00021900 MODIFY_DISK_THRESHOLD_REQUEST "ModifyDiskThresholdRequest",
    0x00021901 MODIFY_DISK_THRESHOLD_RESPONSE "ModifyDiskThresholdResponse",
    0x00021A00 MODIFY_NETWORK_THRESHOLD_REQUEST "ModifyNetworkThresholdRequest",
    0x00021A01 MODIFY_NETWORK_THRESHOLD_RESPONSE "ModifyNetworkThresholdResponse",
    0x00021B00 MODIFY_CELL_STORAGE_REQUEST "ModifyCellStorageRequest",
    0x00021B01 MODIFY_CELL_STORAGE_RESPONSE "ModifyCellStorageResponse",
    0x00022100 MODIFY_GUEST_RULE_REQUEST "ModifyGuestRuleRequest",
    0x00022101 MODIFY_GUEST_RULE_RESPONSE "ModifyGuestRuleResponse",
    0x00022200 MODIFY_AUTO_START_REQUEST "ModifyAutoStartRequest",
    0x00022201 MODIFY_AUTO_START_RESPONSE "ModifyAutoStartResponse",
    0x00030102 CONNECTION_OPENED_EVENT "ConnectionOpenedEvent",
    0x00030500 QUERY_GUEST_REQUEST "QueryGuestRequest",
    0x00031000 QUERY_SNAPSHOT_REQUEST "QuerySnapshotRequest",
    0x00031001 QUERY_SNAPSHOT_RESPONSE "QuerySnapshotResponse",
    0x00031B00 QUERY_CELL_STORAGE_REQUEST "QueryCellStorageRequest",
    0x00031B01 QUERY_CELL_STORAGE_RESPONSE "QueryCellStorageResponse",
    0x00040102 CONNECTION_CLOSED_EVENT "ConnectionClosedEvent",
    0x00042100 ADD_GUEST_RULE_REQUEST "AddGuestRuleRequest",
    0x00042101 ADD_GUEST_RULE_RESPONSE "AddGuestRuleResponse",
    0x00050302 CELL_STATUS_REPORT_EVENT "CellStatusReportEvent",
    0x00052100 REMOVE_GUEST_RULE_REQUEST "RemoveGuestRuleRequest",
    0x00052101 REMOVE_GUEST_RULE_RESPONSE "RemoveGuestRuleResponse",
    0x00060502 GUEST_CREATED_EVENT "GuestCreatedEvent",
    0x00070502 GUEST_DELETED_EVENT "GuestDeletedEvent",
    0x00080502 GUEST_STARTED_EVENT "GuestStartedEvent",
    0x00090502 GUEST_STOPPED_EVENT "GuestStoppedEvent",
    0x000A0300 GET_COMPUTE_POOL_CELL_REQUEST "GetComputePoolCellRequest",
    0x000A0301 GET_COMPUTE_POOL_CELL_RESPONSE "GetComputePoolCellResponse",
    0x000A0500 GET_GUEST_REQUEST "GetGuestRequest",
    0x000A0501 GET_GUEST_RESPONSE "GetGuestResponse",
    0x000A0502 GUEST_UPDATED_EVENT "GuestUpdatedEvent",
    0x000A0902 DISK_IMAGE_UPDATED_EVENT "DiskImageUpdatedEvent",
    0x000A0F00 GET_AUTH_REQUEST "GetAuthRequest",
    0x000A0F01 GET_AUTH_RESPONSE "GetAuthResponse",
    0x000A1000 GET_SNAPSHOT_REQUEST "GetSnapshotRequest",
    0x000A1001 GET_SNAPSHOT_RESPONSE "GetSnapshotResponse",
    0x000A2100 GET_GUEST_RULE_REQUEST "GetGuestRuleRequest",
    0x000A2101 GET_GUEST_RULE_RESPONSE "GetGuestRuleResponse",
    0x000C0600 START_INSTANCE_REQUEST "StartInstanceRequest",
    0x000C0601 START_INSTANCE_RESPONSE "StartInstanceResponse",
    0x000D0600 STOP_INSTANCE_REQUEST "StopInstanceRequest",
    0x000D0601 STOP_INSTANCE_RESPONSE "StopInstanceResponse",
    0x000D0B02 ADDRESS_CHANGED_EVENT "AddressChangedEvent",
    0x000D1402 ADDRESS_POOL_CHANGED_EVENT "AddressPoolChangedEvent",
    0x000E0600 GET_INSTANCE_STATUS_REQUEST "GetInstanceStatusRequest",
    0x000E0601 GET_INSTANCE_STATUS_RESPONSE "GetInstanceStatusResponse",
    0x000E1102 MEDIA_ATTACHED_EVENT "MediaAttachedEvent",
    0x000F0E00 RESIZE_DISK_REQUEST "ResizeDiskRequest",
    0x000F0E01 RESIZE_DISK_RESPONSE "ResizeDiskResponse",
    0x000F1102 MEDIA_DETACHED_EVENT "MediaDetachedEvent",
    0x00100E00 SHRINK_DISK_REQUEST "ShrinkDiskRequest",
    0x00100E01 SHRINK_DISK_RESPONSE "ShrinkDiskResponse",
    0x00110600 ATTACH_INSTANCE_REQUEST "AttachInstanceRequest",
    0x00110601 ATTACH_INSTANCE_RESPONSE "AttachInstanceResponse",
    0x00111100 INSERT_MEDIA_REQUEST "InsertMediaRequest",
    0x00111101 INSERT_MEDIA_RESPONSE "InsertMediaResponse",
    0x00120302 COMPUTE_CELL_REMOVED_EVENT "ComputeCellRemovedEvent",
    0x00120600 DETACH_INSTANCE_REQUEST "DetachInstanceRequest",
    0x00120601 DETACH_INSTANCE_RESPONSE "DetachInstanceResponse",
    0x00121100 EJECT_MEDIA_REQUEST "EjectMediaRequest",
    0x00121101 EJECT_MEDIA_RESPONSE "EjectMediaResponse",
    0x00130602 INSTANCE_MIGRATED_EVENT "InstanceMigratedEvent",
    0x00151000 RESTORE_SNAPSHOT_REQUEST "RestoreSnapshotRequest",
    0x00151001 RESTORE_SNAPSHOT_RESPONSE "RestoreSnapshotResponse",
    0x00171602 SYSTEM_RESET_EVENT "SystemResetEvent",
    0x00180600 MIGRATE_INSTANCE_REQUEST "MigrateInstanceRequest",
    0x001A1600 RESET_SYSTEM_REQUEST "ResetSystemRequest",
    0x001A1601 RESET_SYSTEM_RESPONSE "ResetSystemResponse",
    0x001A2000 RESET_SECRET_REQUEST "ResetSecretRequest",
    0x001A2001 RESET_SECRET_RESPONSE "ResetSecretResponse",
    0x00222100 CHANGE_GUEST_RULE_ORDER_REQUEST "ChangeGuestRuleOrderRequest",
    0x00222101 CHANGE_GUEST_RULE_ORDER_RESPONSE "ChangeGuestRuleOrderResponse",
    0x00232100 CHANGE_GUEST_RULE_DEFAULT_ACTION_REQUEST "ChangeGuestRuleDefaultActionRequest",
    0x00232101 CHANGE_GUEST_RULE_DEFAULT_ACTION_RESPONSE "ChangeGuestRuleDefaultActionResponse",
}

impl std::fmt::Display for MessageId {
    /// Name and number, or the number alone for a message that the contract does not know.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (0x{:08X})", self.0),
            None => write!(f, "message 0x{:08X}", self.0),
        }
    }
}

impl std::fmt::Debug for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
