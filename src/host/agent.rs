//! Commands for QEMU's guest agent that more than one layer sends (QEMU Guest Agent protocol).

/// Does nothing: an answer says that the agent listens.
pub const PING: &str = r#"{"execute":"guest-ping"}"#;

/// Freezes all file systems. The agent then does little else until they are thawed.
pub const FREEZE: &str = r#"{"execute":"guest-fsfreeze-freeze"}"#;

/// Thaws them; right also when none is frozen. Commands are taken in their order, so its answer says that no freeze is to come.
pub const THAW: &str = r#"{"execute":"guest-fsfreeze-thaw"}"#;
