use super::*;

/// As systemd 252 shows it.
fn shown(state: &str, pid: &str, argv: &str, environment: &str) -> String {
    let program = argv.split(' ').next().unwrap();
    format!(
        "ExecStart={{ path={program} ; argv[]={argv} ; ignore_errors=no ; start_time=[Fri 2026-11-20 14:52:49 UTC] ; stop_time=[n/a] ; pid={pid} ; code=(null) ; status=0/0 }}\n\
         MainPID={pid}\nEnvironment={environment}\nLoadState=loaded\nActiveState={state}\n\
         StatusText=joined a=b\n"
    )
}

fn read(shown: &str) -> Option<Unit> {
    Unit::read(shown, Path::new("/nowhere/cell/cell"), Path::new("/nowhere/cell"))
}

#[test]
fn the_unit_of_this_program_and_home_is_ours() {
    let unit = read(&shown("active", "509", "/nowhere/cell/cell run", "")).unwrap();
    assert_eq!(unit, Unit { main_pid: Some(509), active: true, status: "joined a=b".into() });
    let cases = [("inactive", false), ("failed", false), ("activating", true), ("deactivating", true), ("reloading", true)];
    for (state, active) in cases {
        let unit = read(&shown(state, "0", "/nowhere/cell/cell run", "")).unwrap();
        assert_eq!((unit.main_pid, unit.active), (None, active), "{state}");
    }
}

#[test]
fn a_home_apart_from_the_program_is_found_in_the_unit() {
    let program = Path::new("/usr/local/bin/cell");
    let home = Path::new("/srv/cell");
    let units = [
        shown("active", "7", "/usr/local/bin/cell --home /srv/cell run", ""),
        shown("active", "7", "/usr/local/bin/cell run --home=/srv/cell", "CELL_HOME=/elsewhere"),
        shown("active", "7", "/usr/local/bin/cell run", "LANG=C CELL_HOME=/srv/cell"),
    ];
    for unit in units {
        assert!(Unit::read(&unit, program, home).is_some(), "{unit}");
        assert_eq!(Unit::read(&unit, program, Path::new("/usr/local/bin")), None, "{unit}");
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let strangers = [
        shown("active", "7", "/usr/bin/cellular run", ""),
        shown("active", "7", "/nowhere/cell/cell run", "CELL_HOME=/elsewhere"),
        shown("active", "7", "/nowhere/cell/cell run --home", ""),
        // it would wait for itself
        shown("activating", "7", "/nowhere/cell/cell start", ""),
        // masked or not installed
        "MainPID=0\nLoadState=masked\nActiveState=inactive\n".into(),
        "ExecStart=\nMainPID=0\nEnvironment=\nLoadState=not-found\nActiveState=inactive\n".into(),
        // a unit without a command, and no answer that we know
        "ExecStart=\nMainPID=0\nEnvironment=\nLoadState=loaded\nActiveState=active\n".into(),
        String::new(),
    ];
    for unit in strangers {
        assert_eq!(read(&unit), None, "{unit}");
    }
}

#[test]
fn one_file_under_two_names_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("cell"), dir.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert!(same(&real, &link));
    assert!(!same(&real, dir.path()));
}
