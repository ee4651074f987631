//! ShrinkDiskRequest (contract §6.4): the image of a stopped guest's disk gives back the space that it does not need.
//!
//! Only the current image is rewritten, on the same backing, so snapshots stay what they are (contract §14 D16); the copy takes the image's
//! place when it is complete (D17). The guest sees no difference, so a shrink that ends after its deadline stays done.

use std::sync::Arc;

use super::create_snapshot::late;
use crate::proto::message::Key;
use crate::txn::node::jobs::Job;
use crate::txn::volumes::{self, steps::Steps};
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    params.uint(Key::Disk)?;
    let volumes = volumes::take(&context, id, Job::ShrinkDisk).await?;
    let (_, volume) = volumes.disk(params)?;
    volumes.stopped("given smaller images")?;
    let path = volume.file();
    let (new, old) = (volumes::new_name(path), volumes::old_name(path));
    let mut steps = Steps::new(&context, id);
    let done = async {
        volumes.check_aside(&context, std::slice::from_ref(&old)).await?;
        steps.hold_start(&volumes);
        steps.compact(path, &new);
        steps.replace(path, &new, &old, false);
        steps.perform(&context, false, Vec::new()).await?;
        steps.commit().await
    };
    let done = done.await;
    steps.end(done).await?;
    late(&context)
}
