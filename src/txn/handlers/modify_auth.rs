//! ModifyAuthRequest (contract §6.3): another password of an account in the guest, set by the guest's agent, which has to run there.
//!
//! No account is the administrator's, no password a generated one; both are told in the answer and written down. Neither is ever logged (§14 F2).

use std::sync::Arc;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use super::setting::{begin, write_down};
use crate::host::{ErrorKind, HostError, Hypervisor};
use crate::model::{GuestConfig, PowerState, Secret};
use crate::proto::message::Key;
use crate::txn::params::Params;
use crate::txn::setting::Setting;
use crate::txn::undo::{Step, Undo};
use crate::txn::{secrets, Context, Failure};

/// How long the agent has. Together with a second try, which restores the password, it is below the Core's patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it has for the way back.
const BACK: Duration = Duration::from_secs(2);
/// Longest account name and password, bytes.
const LONGEST: usize = 511;

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
    let wanted = GuestConfig { auth_user: user, auth_secret: secret, ..guest.config.as_ref().clone() };
    let mut undo = Undo::new(&context, &[id]);
    match steps(&context, &guest.config, &wanted, &mut undo).await {
        Ok(()) => Ok(()),
        // An agent that refused has changed nothing, and one that is not there would not take anything back either.
        Err(Failure::Host(error)) if error.kind != ErrorKind::Unknown => {
            undo.end();
            Err(error.into())
        }
        Err(cause) => Err(undo.run(cause).await),
    }
}

async fn steps(context: &Context, before: &GuestConfig, wanted: &GuestConfig, undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let config = || Box::new(before.clone());
    let password = Step::Password { config: config(), user: wanted.auth_user.clone() };
    undo.plan(vec![password, Step::Written { setting: Setting::Account, config: config() }]).await?;
    set_password(node.host.hypervisor.as_ref(), wanted, PATIENCE).await?;
    context.check()?;
    write_down(node, wanted, Setting::Account).await?;
    undo.complete(context.success().string(Key::User, &wanted.auth_user).string(Key::Secret, wanted.auth_secret.reveal())).await
}

/// Sets the former password again, where it is known.
pub(in crate::txn) async fn restore(hypervisor: &dyn Hypervisor, before: &GuestConfig, user: &str) -> Result<(), HostError> {
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
