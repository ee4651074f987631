//! Storage pools and their mounts.

use crate::doctor::finding::{Area, Findings, Remedy, Repair};
use crate::doctor::scene::Scene;
use crate::host::PoolStatus;
use crate::model::{Pool, PoolMode};

/// Compares the pools of the books with libvirt's.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) {
    let present = match &scene.pools {
        Ok(pools) => pools,
        Err(reason) => return findings.blind(Area::Pools, reason.clone()),
    };
    for pool in scene.books.storage.pools.values() {
        match present.iter().find(|known| known.pool.name == pool.name) {
            None => missing(pool, findings),
            Some(known) if !same_place(pool, &known.pool) => elsewhere(pool, &known.pool, findings),
            Some(known) => compare(scene, pool, known, findings),
        }
    }
}

fn missing(pool: &Pool, findings: &mut Findings) {
    let remedy = Remedy::automatic("define and start it as the books say", Repair::EnsurePool(pool.clone()));
    findings.drift("pools.missing", subject(pool), "libvirt has no such pool", "its guests can't be started", remedy);
}

fn elsewhere(pool: &Pool, known: &Pool, findings: &mut Findings) {
    let what = format!("the books have it in {}, libvirt in {}", place(pool), place(known));
    let why = "the service would look for its disks in the wrong place";
    let remedy =
        Remedy::Manual(format!("make libvirt's pool {} the one of the books (`virsh pool-edit`), or correct data/storage.data", pool.name));
    findings.drift("pools.elsewhere", subject(pool), what, why, remedy);
}

fn compare(scene: &Scene, pool: &Pool, known: &PoolStatus, findings: &mut Findings) {
    let ensure = |text: &str| Remedy::automatic(text, Repair::EnsurePool(pool.clone()));
    let shared = pool.mode == PoolMode::Nfs;
    if !known.active {
        findings.drift("pools.inactive", subject(pool), "it is not started", "its guests can't be started", ensure("start it"));
    } else if let Some(reason) = scene.unusable.get(&pool.name) {
        let why = "its guests can't be started, and what is written to its directory would go to this host's own disk";
        findings.drift("pools.unmounted", subject(pool), reason.clone(), why, ensure("mount it again"));
    } else if !shared && !known.autostart {
        findings.drift(
            "pools.autostart",
            subject(pool),
            "libvirt does not start it with the host",
            "its guests can't start with the host",
            ensure("mark it for autostart"),
        );
    } else if shared && known.autostart {
        let why = "a libvirtd that starts would wait for a dead server, and all guests with it";
        findings.drift("pools.autostart", subject(pool), "libvirt mounts it with the host", why, ensure("take the mark away"));
    }
    if !pool.id.is_empty() && pool.id != known.pool.id {
        let (name, id) = (pool.name.clone(), known.pool.id.clone());
        let remedy = Remedy::books("take libvirt's", move |books| {
            if let Some(pool) = books.storage.pools.get_mut(&name) {
                pool.id.clone_from(&id);
            }
        });
        let what = format!("the books have the UUID {}, libvirt {}", pool.id, known.pool.id);
        findings.drift("pools.uuid", subject(pool), what, "it was defined anew", remedy);
    }
    if let Some(Err(reason)) = scene.files.get(pool.target.trim_end_matches('/')) {
        findings.blind(Area::Disks, format!("{}: {reason}", pool.target));
    }
}

fn subject(pool: &Pool) -> String {
    format!("pool {}", pool.name)
}

fn same_place(one: &Pool, other: &Pool) -> bool {
    let trimmed = |pool: &Pool| {
        let [target, source] = [&pool.target, &pool.source_target].map(|path| path.trim_end_matches('/').to_owned());
        (pool.mode, target, pool.source_host.clone(), source)
    };
    trimmed(one) == trimmed(other)
}

fn place(pool: &Pool) -> String {
    match pool.mode {
        PoolMode::Local => pool.target.clone(),
        PoolMode::Nfs => format!("{} ({}:{})", pool.target, pool.source_host, pool.source_target),
    }
}
