//! `cell trust`: pins the Core, so that the service talks to no other.
//!
//! A running service tells whom it has joined, by name and address. Otherwise the domain is asked, without joining anybody: then only an address is
//! known, for a Core says its name to those that join it.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::args::TrustOptions;
use super::{status, term, Exit};
use crate::app;
use crate::config::{self, CellSettings, ConfigError, DomainSettings};
use crate::process::pidfile::{self, State};
use crate::process::{one_line, Home};

/// How long Cores get to answer: several pings.
const PATIENCE: Duration = Duration::from_secs(3);

/// Who is to be trusted.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    name: Option<String>,
    address: Option<SocketAddrV4>,
}

/// Nobody can be pinned.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    #[error("the service has joined no Core yet; ask again when 'cell status' shows one")]
    NotJoined,
    #[error("the running service does not tell whom it has joined; restart it with 'cell restart' and ask again")]
    Silent(#[source] io::Error),
    #[error("no Core of the domain {domain} answered within {seconds} s")]
    Nobody { domain: String, seconds: u64 },
    #[error("several Cores of the domain answer ({0}): one of them may be a stranger. Start the service and look at 'cell status', or put the right one into config/cell.cfg as core_address")]
    Several(String),
    #[error("the Core's name is only known while the service has joined it: start the service first, or leave out --name-only")]
    NoName,
}

pub(super) fn trust(home: &Home, options: &TrustOptions) -> Exit {
    match decide(home, options) {
        Ok(exit) => exit,
        Err(error) => {
            term::fail(&*error);
            if error.is::<ConfigError>() {
                Exit::Config
            } else {
                Exit::Failure
            }
        }
    }
}

fn decide(home: &Home, options: &TrustOptions) -> Result<Exit, Box<dyn Error>> {
    let domain = config::load_domain(&home.domain_cfg())?.settings;
    let present = config::load_cell(&home.cell_cfg())?.settings;
    let (mut found, running) = match pidfile::probe(home)? {
        State::Running { .. } => (joined(home)?, true),
        State::Stopped { .. } => (answering(&domain, &present)?, false),
    };
    if options.name_only {
        found = Candidate { name: Some(found.name.ok_or(TrustError::NoName)?), address: None };
    }
    show(&found, &present);
    if is_pinned(&found, &present) {
        term::say("this Core is pinned already");
        return Ok(Exit::Success);
    }
    if !options.yes && !confirmed()? {
        term::say("nothing was changed");
        return Ok(Exit::Failure);
    }
    let address = found.address.map(|address| address.to_string());
    let settings = [("core_name", found.name.as_deref()), ("core_address", address.as_deref())];
    let settings: Vec<(&str, &str)> = settings.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    config::set_texts(&home.cell_cfg(), &settings)?;
    let then = if running { "; it counts from the next 'cell restart' on" } else { "" };
    term::say(format_args!("pinned in {}{then}", home.cell_cfg().display()));
    Ok(Exit::Success)
}

/// The Core that the running service has joined.
fn joined(home: &Home) -> Result<Candidate, TrustError> {
    let status = status::ask(home).map_err(TrustError::Silent)?;
    let name = status.core.ok_or(TrustError::NotJoined)?;
    Ok(Candidate { name: Some(name), address: Some(status.core_address.ok_or(TrustError::NotJoined)?) })
}

/// The one Core that answers in the domain.
fn answering(domain: &DomainSettings, cell: &CellSettings) -> Result<Candidate, Box<dyn Error>> {
    let progress = term::Progress::new(&format!("asking the domain {}", domain.domain));
    let found = app::discover(domain, cell, PATIENCE)?;
    drop(progress);
    Ok(the_only(&found, &domain.domain)?)
}

fn the_only(found: &BTreeSet<SocketAddrV4>, domain: &str) -> Result<Candidate, TrustError> {
    let mut addresses = found.iter();
    match (addresses.next(), addresses.next()) {
        (None, _) => Err(TrustError::Nobody { domain: domain.to_owned(), seconds: PATIENCE.as_secs() }),
        (Some(address), None) => Ok(Candidate { name: None, address: Some(*address) }),
        _ => Err(TrustError::Several(found.iter().map(SocketAddrV4::to_string).collect::<Vec<_>>().join(", "))),
    }
}

fn show(found: &Candidate, present: &CellSettings) {
    let pinned = |text: Option<String>| text.map(|text| format!(" (pinned so far: {})", one_line(&text))).unwrap_or_default();
    let name = found.name.as_deref().map_or("known only while the service has joined it".to_owned(), one_line);
    term::say(format_args!("Core     {name}{}", pinned(present.core_name.clone())));
    if let Some(address) = found.address {
        term::say(format_args!("address  {address}{}", pinned(present.core_address.map(|address| address.to_string()))));
    }
}

fn is_pinned(found: &Candidate, present: &CellSettings) -> bool {
    found.name.as_ref().is_none_or(|name| present.core_name.as_ref() == Some(name))
        && found.address.is_none_or(|address| present.core_address == Some(address))
}

/// Asks on a terminal; elsewhere nobody can say yes.
fn confirmed() -> Result<bool, Box<dyn Error>> {
    if !term::is_interactive() {
        return Err("to pin it without a terminal, add --yes".into());
    }
    let _ = write!(io::stdout(), "Talk to this Core and to no other? [y/N] ");
    let _ = io::stdout().flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_taken_none_and_several_are_refused_by_name() {
        let [a, b]: [SocketAddrV4; 2] = ["10.0.0.1:5600".parse().unwrap(), "10.0.0.9:5600".parse().unwrap()];
        assert_eq!(the_only(&BTreeSet::from([a]), "nano").unwrap(), Candidate { name: None, address: Some(a) });
        assert!(the_only(&BTreeSet::new(), "nano").unwrap_err().to_string().contains("domain nano"));
        let several = the_only(&BTreeSet::from([a, b]), "nano").unwrap_err().to_string();
        assert!(several.contains("10.0.0.1:5600, 10.0.0.9:5600"), "{several}");
    }

    #[test]
    fn a_pin_is_there_when_all_that_is_known_matches() {
        let address: SocketAddrV4 = "10.0.0.1:5600".parse().unwrap();
        let present = CellSettings { core_name: Some("Core_1".into()), core_address: Some(address), ..CellSettings::default() };
        let found = |name: Option<&str>, address| Candidate { name: name.map(str::to_owned), address };
        assert!(is_pinned(&found(Some("Core_1"), Some(address)), &present));
        assert!(is_pinned(&found(None, Some(address)), &present));
        assert!(!is_pinned(&found(Some("Core_2"), Some(address)), &present));
        assert!(!is_pinned(&found(Some("Core_1"), Some(address)), &CellSettings::default()));
    }
}
