//! `cell doctor`: what is not as it should be on this host and in its books, and the repair of what can be repaired.

use std::collections::BTreeMap;

use serde_json::json;

use super::args::DoctorOptions;
use super::{term, Exit};
use crate::app::doctor::{self, Report, Request};
use crate::app::Settings;
use crate::config::{self, CellSettings, ConfigError, DomainSettings};
use crate::doctor::{Area, Finding, Remedy, Weight};
use crate::process::pidfile::{self, InstanceLock, State};
use crate::process::{error_chain, one_line, Home};

/// Version of the JSON form; a change that readers could stumble over makes another one.
const FORMAT: u32 = 1;

pub(super) fn doctor(home: &Home, options: &DoctorOptions) -> Exit {
    let state = match pidfile::probe(home) {
        Ok(state) => state,
        Err(error) => {
            term::fail(&error);
            return Exit::Blind;
        }
    };
    let service = match state {
        State::Running { pid } => Some(pid),
        State::Stopped { .. } => None,
    };
    let lock = match options.repair.then(|| InstanceLock::acquire(home)).transpose() {
        Ok(lock) => lock,
        Err(error) => {
            let advice = "--repair needs a stopped service (`cell stop`; guests go on running)";
            term::fail_with(&format!("{}; {advice}", error_chain(&error)));
            return Exit::Blind;
        }
    };
    let (settings, complaints) = settings(home);
    let request = Request { settings, complaints, service, repair: options.repair };
    let report = doctor::run(&request);
    drop(lock);
    match report {
        Ok(report) => {
            if options.json {
                term::say(as_json(home, service, &report));
            } else {
                Page::new(term::shows_colours()).show(home, service, &report);
            }
            verdict(&report)
        }
        Err(error) => {
            term::fail(&error);
            Exit::Blind
        }
    }
}

fn verdict(report: &Report) -> Exit {
    if !report.findings.blind.is_empty() {
        Exit::Blind
    } else if report.findings.drifts() > 0 {
        Exit::Failure
    } else {
        Exit::Success
    }
}

/// The settings, defaults where they can't be used, and what is wrong with them. Nothing is made.
fn settings(home: &Home) -> (Settings, Vec<String>) {
    let mut complaints = Vec::new();
    let domain = match config::load_domain(&home.domain_cfg()) {
        Ok(loaded) => {
            complaints.extend(loaded.warnings);
            loaded.settings
        }
        // The first start makes it.
        Err(ConfigError::Missing(_)) => DomainSettings::default(),
        Err(error) => {
            complaints.push(error_chain(&error));
            DomainSettings::default()
        }
    };
    let cell = match config::load_cell(&home.cell_cfg()) {
        Ok(loaded) => {
            complaints.extend(loaded.warnings);
            loaded.settings
        }
        Err(error) => {
            complaints.push(error_chain(&error));
            CellSettings::default()
        }
    };
    (Settings { home: home.clone(), domain, cell }, complaints)
}

fn as_json(home: &Home, service: Option<Option<i32>>, report: &Report) -> serde_json::Value {
    let found = &report.findings;
    let result = match verdict(report) {
        Exit::Success => "clean",
        Exit::Failure => "drifts",
        _ => "blind",
    };
    let repairs = report.deeds.iter().map(|deed| {
        json!({ "code": deed.finding.code, "subject": deed.finding.subject, "text": deed.finding.remedy.text(), "failure": deed.failure })
    });
    json!({
        "format": FORMAT,
        "version": env!("CARGO_PKG_VERSION"),
        "home": home.dir(),
        "service": { "running": service.is_some(), "pid": service.flatten() },
        "result": result,
        "drifts": found.drifts(),
        "findings": found.found,
        "blind": found.blind,
        "repairs": repairs.collect::<Vec<_>>(),
    })
}

/// What a person reads: a paragraph an area, a line a finding.
struct Page {
    colours: bool,
}

impl Page {
    fn new(colours: bool) -> Self {
        Self { colours }
    }

    fn show(&self, home: &Home, service: Option<Option<i32>>, report: &Report) {
        let service = match service {
            None => "the service is stopped".to_owned(),
            Some(None) => "the service runs".to_owned(),
            Some(Some(pid)) => format!("the service runs, pid {pid}"),
        };
        term::say(format_args!("{}: {service}", home.dir().display()));
        for deed in &report.deeds {
            let done = match &deed.failure {
                None => self.paint("32", "repaired"),
                Some(_) => self.paint("31", "failed  "),
            };
            let why = deed.failure.as_ref().map(|why| format!(": {}", one_line(why))).unwrap_or_default();
            let finding = &deed.finding;
            term::say(format_args!(
                "{done}  {}: {}; {}{why}",
                one_line(&finding.subject),
                one_line(&finding.what),
                one_line(finding.remedy.text())
            ));
        }
        let mut areas: BTreeMap<Area, Vec<&Finding>> = BTreeMap::new();
        for finding in &report.findings.found {
            areas.entry(finding.area()).or_default().push(finding);
        }
        for area in Area::ALL {
            self.area(area, areas.get(&area).map(Vec::as_slice).unwrap_or_default(), report);
        }
        term::say(self.summary(report));
    }

    fn area(&self, area: Area, findings: &[&Finding], report: &Report) {
        let blind: Vec<&str> = report.findings.blind.iter().filter(|blind| blind.area == area).map(|blind| blind.reason.as_str()).collect();
        let state = match (findings.is_empty(), blind.is_empty()) {
            (true, true) => self.paint("32", "ok"),
            (true, false) => String::new(),
            (false, _) => format!("{} found", findings.len()),
        };
        term::say(format_args!("{:<8} {state}", area.name()).to_string().trim_end());
        for reason in blind {
            term::say(format_args!("  {} not looked at: {}", self.paint("33", "?"), one_line(reason)));
        }
        let width = findings.iter().map(|finding| finding.code.len()).max().unwrap_or_default();
        for finding in findings {
            let mark = match finding.weight {
                Weight::Drift => self.paint("31", "!"),
                Weight::Note => self.paint("33", "-"),
            };
            let who = match &finding.remedy {
                Remedy::Automatic { .. } => "--repair",
                Remedy::Service(_) => "service",
                Remedy::Manual(_) => "by hand",
            };
            term::say(format_args!(
                "  {mark} {:<width$}  {}: {}; {} [{who}: {}]",
                finding.code,
                one_line(&finding.subject),
                one_line(&finding.what),
                one_line(&finding.why),
                one_line(finding.remedy.text())
            ));
        }
    }

    fn summary(&self, report: &Report) -> String {
        let (drifts, notes) = (report.findings.drifts(), report.findings.found.len() - report.findings.drifts());
        let notes = if notes > 0 { format!(", {notes} to note") } else { String::new() };
        match verdict(report) {
            Exit::Success => self.paint("32", &format!("nothing is wrong{notes}")),
            Exit::Failure => self.paint("31", &format!("{drifts} to be dealt with{notes}")),
            _ => self.paint("33", &format!("not everything could be looked at; {drifts} to be dealt with{notes}")),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}
