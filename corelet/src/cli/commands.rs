//! What each command does.

use std::time::Duration;

use cell::model::GuestId;
use serde_json::{json, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::args::{Command, CreateArgs, GuestState, MediaArgs, Options, StopArgs};
use super::error::CliError;
use super::guests::Found;
use super::output::{sheet, Output};
use super::{ppm, raw, show};
use crate::core::Core;
use crate::domain::Cell;
use crate::error::WaitError;
use crate::events::{Event, Events};
use crate::guest::Guest;
use crate::requests::{CreateGuest, ImageSource, Media, StopMode, TemplateNumbers};

/// How long a guest may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a Cell may take for its first report: it comes with the second sample.
const REPORT_PATIENCE: Duration = Duration::from_secs(15);
/// How long after its answer a Cell may take to confirm.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(10);

/// A Core and how to show what it does.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) core: Core,
    pub(crate) options: Options,
    pub(crate) output: Output,
    pub(crate) tidy: Tidy,
}

/// Whether an interrupted command has to tidy up before it may end.
#[derive(Debug, Default)]
pub(crate) struct Tidy {
    stop: CancellationToken,
    needed: std::cell::Cell<bool>,
}

impl Tidy {
    /// From now on there is something to tidy up; the token tells when to begin with it.
    pub(crate) fn begin(&self) -> CancellationToken {
        self.needed.set(true);
        self.stop.clone()
    }

    /// Everything is tidy again.
    pub(crate) fn end(&self) {
        self.needed.set(false);
    }

    /// True once it was called off.
    pub(crate) fn is_called_off(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Calls the command off; true when it has to tidy up first.
    pub(crate) fn call_off(&self) -> bool {
        self.stop.cancel();
        self.needed.get()
    }
}

impl Session {
    /// Says goodbye to the Cells.
    pub(crate) async fn close(self) {
        self.core.close().await;
    }

    /// Carries out one command.
    pub(crate) async fn run(&self, command: Command) -> Result<(), CliError> {
        match command {
            Command::Shell { stop_on_error } => Box::pin(self.shell(stop_on_error)).await,
            other => self.run_single(other).await,
        }
    }

    /// Carries out one command other than the shell.
    pub(crate) async fn run_single(&self, command: Command) -> Result<(), CliError> {
        match command {
            Command::Watch { duration, reports } => self.watch(duration, reports).await,
            Command::List => self.list().await,
            Command::Create(arguments) => self.create(&arguments).await,
            Command::Start { guest, media, no_wait } => self.start(&guest, &media, no_wait).await,
            Command::Status { guest: Some(guest) } => self.status(&guest).await,
            Command::Status { guest: None } => self.host().await,
            Command::Get { guest } => self.get(&guest).await,
            Command::Stop { guest, how, no_wait, within } => self.stop(&guest, how, no_wait, within).await,
            Command::Delete { guest, force } => self.delete(&guest, force).await,
            Command::ResetSystem { guest, image, server, within } => self.reset_system(&guest, &image, &server, within).await,
            Command::Export { guest, image, server } => self.export(&guest, &image, &server).await,
            Command::ImageServer(_) => {
                Err(CliError::Usage("the image server runs as a command of its own: corelet image-server DIR".into()))
            }
            Command::Wait { guest, state, within } => self.wait(&guest, state, within).await,
            Command::Storage { path } => self.storage(path.as_deref()).await,
            Command::Raw { message, parameters, event } => self.raw(&message, &parameters, event).await,
            Command::Replay { capture, skip, allow_unsupported } => self.replay(&capture, &skip, allow_unsupported).await,
            Command::Bench(arguments) => self.bench(&arguments).await,
            Command::Storm(arguments) => self.storm(&arguments).await,
            Command::PpmToPng { input, output } => Ok(ppm::convert(&input, &output)?),
            Command::Shell { .. } => Err(CliError::Usage("this is the shell already".into())),
        }
    }

    /// Waits for the Cell to work with.
    pub(crate) async fn wait_cell(&self) -> Result<Cell, CliError> {
        let name = self.options.cell.as_deref();
        if let Ok(cell) = self.core.wait_cell(name, Duration::ZERO).await {
            return Ok(cell);
        }
        let _progress = self.output.progress(&format!("waiting for {} to join", name.unwrap_or("a Cell")));
        Ok(self.core.wait_cell(name, self.options.wait).await?)
    }

    async fn watch(&self, duration: Option<Duration>, reports: bool) -> Result<(), CliError> {
        let end = duration.map(|duration| Instant::now() + duration);
        let mut events = self.core.all_events();
        loop {
            let next = match end {
                None => events.next().await,
                Some(end) => match tokio::time::timeout_at(end, events.next()).await {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                },
            };
            let Some(event) = next else { return Ok(()) };
            if reports || !matches!(event.event, Event::StatusReport { .. }) {
                let text = show::event(&event);
                self.output.item(&text, &serde_json::to_value(&event).unwrap_or_default())?;
            }
        }
    }

    async fn list(&self) -> Result<(), CliError> {
        self.wait_cell().await?;
        let mut cells = self.core.cells();
        cells.retain(|cell| self.options.cell.as_ref().is_none_or(|name| *name == cell.name));
        let text = show::cells(&cells);
        let guests = |cell: &Cell| cell.guests.values().cloned().collect::<Vec<Guest>>();
        let value = |cell: &Cell| json!({"name": cell.name, "address": cell.address, "state": cell.state, "report": cell.report, "guests": guests(cell)});
        Ok(self.output.result("list", &text, json!({ "cells": cells.iter().map(value).collect::<Vec<Value>>() }))?)
    }

    async fn create(&self, arguments: &CreateArgs) -> Result<(), CliError> {
        let (_server, image) = match &arguments.image {
            Some(id) => self.image_source(id, &arguments.server, false).await.map(|(server, source)| (server, Some(source)))?,
            None => (None, None),
        };
        let request = create_request(arguments, &self.options.pool, image);
        let cell = self.wait_cell().await?.name;
        let what = format!("creating {}", request.name);
        let mut progress = self.output.progress(&what);
        let mut events = self.core.events();
        let id = self.core.create(&cell, &request).await?;
        if arguments.no_wait {
            drop(progress);
            let text = format!("{} ({id}) accepted by {cell}", request.name);
            return Ok(self.output.result("create", &text, json!({ "cell": cell, "id": id, "name": request.name }))?);
        }
        let outcome = events.find(arguments.within, |recorded| match &recorded.event {
            event if event.guest() != Some(id) => None,
            Event::GuestProgress { percent, .. } => {
                progress.percent(&what, *percent);
                None
            }
            Event::GuestCreated { .. } => Some(Ok(())),
            Event::GuestFailed { reason, .. } => Some(Err(reason.clone())),
            _ => None,
        });
        let outcome = outcome.await.map_err(|error| late(error, &what))?;
        drop(progress);
        outcome.map_err(|reason| CliError::Failed(format!("{cell} could not create {}: {reason}", request.name)))?;
        if request.auto_start {
            self.await_event(&mut events, START_PATIENCE, &format!("starting {}", request.name), |event| event.is_started(id)).await?;
        }
        let text = format!("{} ({id}) {} on {cell}", request.name, if request.auto_start { "created and started" } else { "created" });
        Ok(self.output.result("create", &text, json!({ "cell": cell, "id": id, "guest": self.core.guest(&cell, id) }))?)
    }

    async fn start(&self, guest: &str, media: &MediaArgs, no_wait: bool) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let mut events = self.core.events();
        let _progress = self.output.progress(&format!("starting {}", found.name));
        match media_of(media) {
            None => self.core.start_guest(&found.cell, found.guest).await?,
            Some(media) => self.core.start_with_media(&found.cell, found.guest, &media).await?,
        }
        if !no_wait {
            let what = format!("start of {}", found.name);
            self.await_event(&mut events, START_PATIENCE, &what, |event| event.is_started(found.guest)).await?;
        }
        drop(_progress);
        self.done("start", &found, "started")
    }

    async fn status(&self, guest: &str) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let status = self.core.get_status(&found.cell, found.guest).await?;
        Ok(self.output.result("status", &show::guest(&status), json!({ "cell": found.cell, "guest": status }))?)
    }

    async fn get(&self, guest: &str) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let answer = self.core.get_guest(&found.cell, found.guest).await?;
        Ok(self.output.result("get", &show::guest(&answer), json!({ "cell": found.cell, "guest": answer }))?)
    }

    async fn host(&self) -> Result<(), CliError> {
        let mut events = self.core.events();
        let mut cell = self.wait_cell().await?;
        if cell.report.is_none() {
            let _progress = self.output.progress(&format!("waiting for the first report of {}", cell.name));
            let first = |event: &Event| matches!(event, Event::StatusReport { cell: name, .. } if *name == cell.name);
            events.wait(REPORT_PATIENCE, first).await.map_err(|error| late(error, "status report"))?;
            cell = self.core.cell(&cell.name).unwrap_or(cell);
        }
        let report = cell.report.ok_or_else(|| CliError::Failed(format!("{} has not reported yet", cell.name)))?;
        Ok(self.output.result("status", &show::host(&cell, &report), json!({ "cell": cell.name, "report": report }))?)
    }

    async fn stop(&self, guest: &str, how: StopArgs, no_wait: bool, within: Duration) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let (mode, word) = match how {
            StopArgs { force: true, .. } => (StopMode::Force, "stopped"),
            StopArgs { reboot: true, .. } => (StopMode::Reboot, "told to reboot"),
            StopArgs { reset: true, .. } => (StopMode::Reset, "reset"),
            _ => (StopMode::Graceful, "stopped"),
        };
        let mut events = self.core.events();
        let _progress = self.output.progress(&format!("stopping {}", found.name));
        self.core.stop_guest(&found.cell, found.guest, mode).await?;
        let stops = matches!(mode, StopMode::Force | StopMode::Graceful);
        if stops && !no_wait {
            let what = format!("shutdown of {} (stop --force pulls the plug)", found.name);
            self.await_event(&mut events, within, &what, |event| event.is_stopped(found.guest)).await?;
        }
        drop(_progress);
        self.done("stop", &found, if stops && no_wait { "told to stop" } else { word })
    }

    async fn delete(&self, guest: &str, force: bool) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let mut events = self.core.events();
        if force && self.core.guest(&found.cell, found.guest).is_some_and(|guest| guest.running) {
            self.core.stop_guest(&found.cell, found.guest, StopMode::Force).await?;
            let what = format!("stop of {}", found.name);
            self.await_event(&mut events, CONFIRM_PATIENCE, &what, |event| event.is_stopped(found.guest)).await?;
        }
        self.core.delete_guest(&found.cell, found.guest).await?;
        let what = format!("deletion of {}", found.name);
        self.await_event(&mut events, CONFIRM_PATIENCE, &what, |event| event.is_deleted(found.guest)).await?;
        self.done("delete", &found, "deleted")
    }

    async fn wait(&self, guest: &str, state: GuestState, within: Duration) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let mut events = self.core.events();
        let what = format!("{} is not {state:?} yet", found.name).to_lowercase();
        let _progress = self.output.progress(&what);
        let reached = |guest: Option<Guest>| match (state, guest) {
            (GuestState::Deleted, guest) => guest.is_none(),
            (_, None) => false,
            (GuestState::Created, Some(guest)) => guest.created,
            (GuestState::Running, Some(guest)) => guest.created && guest.running,
            (GuestState::Stopped, Some(guest)) => guest.created && !guest.running,
        };
        let deadline = Instant::now() + within;
        while !reached(self.core.guest(&found.cell, found.guest)) {
            let news = events.wait(deadline - Instant::now(), |event| event.cell() == found.cell).await;
            news.map_err(|_| CliError::Late { what: what.clone(), seconds: within.as_secs_f64() })?;
        }
        drop(_progress);
        self.done("wait", &found, &format!("{state:?}").to_lowercase())
    }

    async fn storage(&self, path: Option<&str>) -> Result<(), CliError> {
        let cell = self.wait_cell().await?.name;
        if let Some(path) = path {
            self.core.modify_storage(&cell, path).await?;
        }
        let paths = self.core.query_storage(&cell).await?;
        let shared = self.core.get_cell(&cell).await?;
        let list = |paths: &[String]| paths.join(", ");
        let mut entries = vec![("Mode", paths.mode.to_owned()), ("System disks", list(&paths.system)), ("Data disks", list(&paths.data))];
        entries.extend(shared.iter().map(|pool| {
            let state = if pool.attached { "attached" } else { "not attached" };
            ("Shared pool", format!("{} {state} {}", pool.name, pool.error).trim_end().to_owned())
        }));
        Ok(self.output.result("storage", &sheet(&entries), json!({ "cell": cell, "paths": paths, "shared": shared }))?)
    }

    async fn raw(&self, message: &str, parameters: &[String], event: bool) -> Result<(), CliError> {
        let cell = self.wait_cell().await?;
        let lookup = |name: &str| match name.strip_prefix("guest:") {
            None => (name == "cell").then(|| cell.name.clone()),
            Some(wanted) => cell.guests.values().find(|guest| guest.name == wanted).map(|guest| guest.id.to_string()),
        };
        let message = raw::parse(message, parameters, lookup)?;
        if event {
            let id = message.id;
            self.core.send(&cell.name, message)?;
            return Ok(self.output.result("raw", &format!("{id} sent to {}", cell.name), json!({ "cell": cell.name }))?);
        }
        let answer = self.core.exchange(&cell.name, message).await?;
        let value = serde_json::to_value(&answer).unwrap_or_default();
        let text = serde_json::to_string_pretty(&value).unwrap_or_default();
        let name = answer.id.name();
        self.output.result("raw", &text, json!({ "cell": cell.name, "name": name, "answer": value }))?;
        match answer.success {
            true => Ok(()),
            false => Err(CliError::Failed(format!("{} refused: {}", cell.name, answer.error))),
        }
    }

    pub(super) fn done(&self, command: &str, found: &Found, word: &str) -> Result<(), CliError> {
        let Found { cell, guest, name } = found;
        Ok(self.output.result(command, &format!("{name} {word}"), json!({ "cell": cell, "id": guest, "name": name }))?)
    }

    async fn await_event(
        &self,
        events: &mut Events,
        within: Duration,
        what: &str,
        fits: impl FnMut(&Event) -> bool,
    ) -> Result<(), CliError> {
        events.wait(within, fits).await.map(drop).map_err(|error| late(error, what))
    }
}

pub(super) fn late(error: WaitError, what: &str) -> CliError {
    match error {
        WaitError::Timeout(timeout) => CliError::Late { what: what.into(), seconds: timeout.as_secs_f64() },
        other => CliError::Wait(other),
    }
}

fn media_of(arguments: &MediaArgs) -> Option<Media> {
    let MediaArgs { media, media_host, media_port } = arguments.clone();
    Some(Media { id: media?, host: media_host?, port: media_port? })
}

fn create_request(arguments: &CreateArgs, pool: &str, image: Option<ImageSource>) -> CreateGuest {
    let name = match arguments.name.contains('.') {
        true => arguments.name.clone(),
        false => format!("manager.{}", arguments.name),
    };
    let template = arguments.template.map_or_else(TemplateNumbers::default, TemplateNumbers::from_array);
    let blank = CreateGuest::blank(&name, 0);
    CreateGuest {
        id: arguments.id.unwrap_or_else(GuestId::random),
        owner: arguments.owner.clone(),
        pool: pool.into(),
        cores: arguments.cores,
        memory: arguments.memory,
        disks: arguments.disks.clone(),
        auto_start: arguments.auto_start,
        priority: arguments.priority.number(),
        limits: arguments.limits,
        template,
        modules: arguments.modules.clone(),
        admin: arguments.admin.clone(),
        secret: arguments.password.clone(),
        addresses: [arguments.address.clone(), String::new()],
        image,
        ..blank
    }
}
