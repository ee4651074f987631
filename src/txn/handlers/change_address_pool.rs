//! AddressPoolChangedEvent (contract §6.1): new gateway, DNS and address provider of the pool. It has no answer; a bad one is logged and changes nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::AddressMode;
use crate::proto::message::Key;
use crate::store::DataFile;
use crate::txn::node::books::Inner;
use crate::txn::params::Params;
use crate::txn::undo::{settle_common, Common, Step, Undo};
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let pool = AddressPool { mode: Some(read_mode(params)?), ..AddressPool::read(params)? };
    change(&context, &pool).await
}

/// Enters the pool in the books, all of it or nothing.
pub(super) async fn change(context: &Arc<Context>, pool: &AddressPool) -> Result<(), Failure> {
    let _alone = context.node.addressing.lock().await;
    // Carried out later, it would undo this one.
    settle_common(&context.node, Common::Addresses).await?;
    let mut undo = Undo::new(context, &[]);
    undo.plan_forward(vec![Step::Addresses { pool: pool.clone() }]).await?;
    let changed = apply(&mut context.node.books.lock(), pool);
    context.node.save(changed).await?;
    undo.end();
    Ok(())
}

/// A pool without addresses: the last pool's are void (contract §14 B20).
pub(super) async fn clear(context: &Context) -> Result<(), Failure> {
    let node = &context.node;
    let _alone = node.addressing.lock().await;
    settle_common(node, Common::Addresses).await?;
    {
        let network = &mut node.books.lock().network;
        network.gateway.clear();
        network.dns.clear();
        network.allocation_mode = AddressMode::None;
    }
    node.save(&[DataFile::Network]).await
}

/// What a pool's guests need for their addresses.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::txn) struct AddressPool {
    gateway: Ipv4Addr,
    dns: Vec<Ipv4Addr>,
    /// `None`: the Core did not say (contract §13.1); the mode stays as it is.
    mode: Option<AddressMode>,
}

impl AddressPool {
    /// Reads and validates gateway and DNS; the mode where it is given.
    pub(super) fn read(params: Params<'_>) -> Result<Self, Failure> {
        let ipv4 = |key, text: &str| {
            text.parse::<Ipv4Addr>().map_err(|_| params.bad(key, format!("is '{text}', an IPv4 address such as 10.0.0.1 is expected")))
        };
        let gateway = ipv4(Key::Gateway, params.string(Key::Gateway)?)?;
        let servers = params.optional_strings(Key::Server).unwrap_or_default();
        let dns = servers.iter().map(|text| ipv4(Key::Server, text)).collect::<Result<_, _>>()?;
        let mode = match params.optional_string(Key::Mode) {
            Some(_) => Some(read_mode(params)?),
            None => None,
        };
        Ok(Self { gateway, dns, mode })
    }
}

fn read_mode(params: Params<'_>) -> Result<AddressMode, Failure> {
    let word = params.string(Key::Mode)?;
    AddressMode::from_wire(word)
        .ok_or_else(|| params.bad(Key::Mode, format!("is '{word}', one of \"dhcp\", \"cloudinit\" and \"\" is expected")))
}

/// Enters the pool in the books; gives the files that have to be written.
pub(in crate::txn) fn apply(books: &mut Inner, pool: &AddressPool) -> &'static [DataFile] {
    books.network.gateway = pool.gateway.to_string();
    books.network.dns = pool.dns.iter().map(Ipv4Addr::to_string).collect();
    let Some(mode) = pool.mode else {
        return &[DataFile::Network];
    };
    books.network.allocation_mode = mode;
    if mode == AddressMode::None {
        return &[DataFile::Network];
    }
    for guest in books.guests.values_mut().filter(|guest| guest.config.address_allocation != mode) {
        Arc::make_mut(&mut guest.config).address_allocation = mode;
    }
    &[DataFile::Network, DataFile::Instance]
}
