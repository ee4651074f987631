//! ModifyAuthRequest (contract §6.3): another password of an account in the guest, set by the guest's agent, which has to run there.
//!
//! No account is the administrator's, no password a generated one; both are told in the answer and written down. Neither is ever logged (§14 F2).

use std::sync::Arc;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use super::setting::{begin, write_down, Field};
use crate::host::{ErrorKind, HostError, Hypervisor};
use crate::model::{GuestConfig, PowerState, Secret};
use crate::proto::message::Key;
use crate::txn::params::Params;
use crate::txn::undo::Undo;
use crate::txn::{secrets, Context, Failure};

/// How long the agent has. Together with a second try, which restores the password, it is below the Core's patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it has for the way back.
const BACK: Duration = Duration::from_secs(2);
/// Longest account name and password, bytes.
const LONGEST: usize = 511;

static ACCOUNT: Field = Field {
    name: "account",
    copy: |from, to| {
        to.auth_user.clone_from(&from.auth_user);
        to.auth_secret.clone_from(&from.auth_secret);
    },
};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let user = read_text(params, Key::User)?;
    let secret = match read_text(params, Key::Secret)? {
        "" => secrets::password(secrets::ADMIN_SECRET_LENGTH)?,
        secret => Secret::new(secret),
    };
    let (_job, guest) = begin(&context, id).await?;
    if guest.power != PowerState::Running {
        return Err(Failure::refused(format!("the password of guest '{}' can't be changed: the guest is not running", guest.config.name)));
    }
    let user = if user.is_empty() { guest.config.administrator() } else { user }.to_owned();
    let wanted = Arc::new(GuestConfig { auth_user: user, auth_secret: secret, ..guest.config.as_ref().clone() });
    let mut undo = Undo::default();
    match steps(&context, guest.config, wanted, &mut undo).await {
        Ok(()) => {
            undo.disarm();
            Ok(())
        }
        Err(cause) => Err(undo.run(cause).await),
    }
}

async fn steps(context: &Arc<Context>, before: Arc<GuestConfig>, wanted: Arc<GuestConfig>, undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let hypervisor = node.host.hypervisor.clone();
    let set = set_password(hypervisor.as_ref(), &wanted, PATIENCE).await;
    match set {
        // An agent that refused has changed nothing, and one that is not there would not take anything back either.
        Err(error) if error.kind != ErrorKind::Unknown => return Err(error.into()),
        _ => {}
    }
    let (back, user) = (before.clone(), wanted.auth_user.clone());
    undo.push(format!("new password of '{user}' in guest {}", before.id), async move { restore(hypervisor.as_ref(), &back, &user).await });
    set?;
    context.check()?;
    write_down(node, before, wanted.clone(), &ACCOUNT, undo).await?;
    context.respond(context.success().string(Key::User, &wanted.auth_user).string(Key::Secret, wanted.auth_secret.reveal()))
}

/// Sets the former password again, where it is known.
async fn restore(hypervisor: &dyn Hypervisor, before: &GuestConfig, user: &str) -> Result<(), HostError> {
    if before.administrator() != user || before.auth_secret.is_empty() {
        return Err(HostError::new(ErrorKind::Unsupported, format!("the former password of '{user}' is not known")));
    }
    set_password(hypervisor, &GuestConfig { auth_user: user.to_owned(), ..before.clone() }, BACK).await
}

async fn set_password(hypervisor: &dyn Hypervisor, config: &GuestConfig, patience: Duration) -> Result<(), HostError> {
    let command = serde_json::json!({
        "execute": "guest-set-user-password",
        "arguments": {
            "username": config.auth_user,
            "password": STANDARD.encode(config.auth_secret.reveal()),
            "crypted": false,
        },
    });
    hypervisor.agent(config.id, &command.to_string(), patience).await.map(drop)
}

fn read_text(params: Params<'_>, key: Key) -> Result<&str, Failure> {
    let text = params.string(key)?;
    if text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(params.bad(key, format!("has more than {LONGEST} bytes or a control character")));
    }
    Ok(text)
}
