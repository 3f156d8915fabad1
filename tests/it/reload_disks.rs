//! Files that cannot be read, for a while or at all.

use std::{fs, time::Duration};

use serde_json::json;
use sf_token_proxy::reload::Outcome;

use crate::{
    log::Program,
    reload::{Changing, problem},
    support::{RawOrg, Script},
};

#[tokio::test]
async fn a_file_that_could_not_be_read_for_a_while_counts_afterwards() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let mut program = Program::start().await;
    let id = Pid::from_raw(program.child.id().unwrap().cast_signed());
    // Those that are open stay open.
    let few = Rlimit {
        current: Some(3),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    let usual = prlimit(id, Resource::Nofile, few).unwrap();
    program.config["upstream"] = json!({"connect_timeout": "7s"});
    let path = program.folder.path().join("config.yaml");
    fs::write(&path, program.config.to_string()).unwrap();
    let told = program
        .says("the changed configuration is no good, the old one goes on")
        .await;
    assert!(
        told["problem"].as_str().unwrap().contains("Too many open files"),
        "{told}"
    );
    prlimit(id, Resource::Nofile, usual).unwrap();
    program.says("the changed configuration is in use").await;
}

#[tokio::test]
async fn a_configuration_that_has_become_a_pipe_or_has_no_end_is_refused_at_once() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let org = RawOrg::start(|_| Script::ok()).await;
    let this = Changing::start(&org).await;
    let path = this.app.folder().join("config.yaml");
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let look = tokio::time::timeout(Duration::from_secs(4), this.look());
    let told = problem(look.await.expect("nobody waits for its other end"));
    assert!(told.contains("it is a pipe, not a file"), "{told}");
    fs::remove_file(&path).unwrap();
    // With holes: nothing is on the disk.
    fs::File::create(&path).unwrap().set_len(900 << 20).unwrap();
    let told = problem(this.look().await);
    assert!(told.contains("it is larger than 4 MiB"), "{told}");
    this.write("config.yaml", &this.config.to_string());
    assert_eq!(this.look().await, Outcome::Unchanged);
    this.app.stop().await;
}
