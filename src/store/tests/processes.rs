//! The store between processes, and what a killed, starved or forbidden one leaves behind.
//!
//! The other process is this test binary again, told by environment variables to run [`child`] and in it one job.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    thread,
};

use super::*;
use crate::config::SecretRef;

const JOB: &str = "SFPROXY_TEST_STORE_JOB";
const FOLDER: &str = "SFPROXY_TEST_STORE_FOLDER";
/// Nobody's, on Linux and elsewhere.
const NOBODY: u32 = 65534;

/// What the other process does; as a test of its own, nothing.
#[tokio::test]
async fn child() {
    #[expect(clippy::disallowed_methods, reason = "how the parent talks to its child")]
    let (Ok(job), Ok(folder)) = (std::env::var(JOB), std::env::var(FOLDER)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let store = || {
        Store::open(&config::Store::File {
            directory: folder.join("records"),
            key: SecretRef::file(folder.join("key")),
            previous_key: None,
        })
    };
    match job.as_str() {
        "write for ever" => write_for_ever(&store().unwrap()).await,
        "hold" => {
            let _held = store().unwrap().lock(&key(), SECOND).await.unwrap();
            println!("\nholding");
            std::future::pending::<()>().await;
        }
        "count" => count(&store().unwrap(), &folder).await,
        "open" => println!("\n{}", told(store().map(|_| ()))),
        "write large" => {
            let mut large = record(2);
            large.token.as_mut().unwrap().secret = "x".repeat(64 * 1024).into();
            println!("\n{}", told(write(&store().unwrap(), &large).await));
        }
        // The store was opened while it could be; then the directory was closed to us.
        "write when told" => {
            let store = store().unwrap();
            let locked = store.lock(&key(), SECOND).await.unwrap();
            println!("\nready");
            let _ = std::io::stdin().read(&mut [0]).unwrap();
            assert_eq!(store.read(&key()).await.unwrap(), Some(record(1)));
            println!("\n{}", told(locked.write(&record(2)).await));
            println!("\n{}", told(locked.forget().await));
        }
        other => panic!("no such job: {other}"),
    }
}

fn told(result: Result<(), StoreError>) -> String {
    match result {
        Ok(()) => "told: fine".to_owned(),
        Err(error) => format!("told: {} {error}", error.word()),
    }
}

async fn write_for_ever(store: &Store) {
    loop {
        let locked = store.lock(&key(), 10 * SECOND).await.unwrap();
        let serial = locked.read().await.unwrap().unwrap_or_default().serial + 1;
        let mut next = record(serial);
        // Several pages, so that a write takes a while.
        next.token.as_mut().unwrap().org_id = Some("0".repeat(20_000));
        locked.write(&next).await.unwrap();
        println!("\nwritten {serial}");
    }
}

const ROUNDS: u64 = 40;

/// Adds to the serial under the lock; panics when somebody else is inside.
async fn count(store: &Store, folder: &Path) {
    let inside = folder.join("inside");
    for _ in 0..ROUNDS {
        let locked = store.lock(&key(), 60 * SECOND).await.unwrap();
        fs::File::create_new(&inside).expect("two hold the lock at once");
        let serial = locked.read().await.unwrap().unwrap_or_default().serial;
        tokio::time::sleep(Duration::from_millis(1)).await;
        locked.write(&record(serial + 1)).await.unwrap();
        fs::remove_file(&inside).unwrap();
    }
    println!("\ncounted");
}

/// A child that is killed and reaped with its test.
struct Other {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Other {
    fn start(room: &Room, job: &str) -> Self {
        Self::spawn(room, job, Command::new(std::env::current_exe().unwrap()))
    }

    fn spawn(room: &Room, job: &str, mut command: Command) -> Self {
        let mut child = command
            .args(["--exact", "store::tests::processes::child", "--nocapture"])
            .env(JOB, job)
            .env(FOLDER, room.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The rest of the next line that begins so. Ends at the latest with the child.
    fn line(&mut self, begin: &str) -> Option<String> {
        let line = self
            .lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.starts_with(begin))?;
        Some(line[begin.len()..].trim().to_owned())
    }

    fn expect(&mut self, begin: &str) -> String {
        self.line(begin)
            .unwrap_or_else(|| panic!("the child ended without saying {begin:?}"))
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_writer_killed_at_any_moment_leaves_a_record_that_opens() {
    let room = Room::new();
    let (mut serial, mut leftovers) = (0, 0);
    for _ in 0..30 {
        let mut other = Other::start(&room, "write for ever");
        let mut acknowledged: u64 = other.expect("written").parse().unwrap();
        thread::sleep(Duration::from_micros(fastrand::u64(0..20_000)));
        other.kill();
        while let Some(line) = other.line("written") {
            acknowledged = line.parse().unwrap_or(acknowledged);
        }
        leftovers += room.names().len() - 2;
        let store = room.store();
        let seen = store.read(&key()).await.unwrap().unwrap().serial;
        assert!(acknowledged > serial, "no child wrote");
        assert!(
            seen == acknowledged || seen == acknowledged + 1,
            "{seen} is there, {acknowledged} was acknowledged"
        );
        serial = seen;
    }
    println!("{leftovers} left-over files in 30 kills, {serial} writes");
    write(&room.store(), &record(serial + 1)).await.unwrap();
    assert_eq!(room.names().len(), 2, "{:?}", room.names());
}

#[tokio::test]
async fn a_killed_process_holds_no_lock() {
    let room = Room::new();
    let store = room.store();
    let mut other = Other::start(&room, "hold");
    other.expect("holding");
    let error = store.lock(&key(), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.word(), "busy");
    assert!(error.to_string().contains("another process holds it"), "{error}");
    // Readers need no lock.
    assert_eq!(store.read(&key()).await.unwrap(), None);
    let key = key();
    let waiting = store.lock(&key, 30 * SECOND);
    let killing = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        other.kill();
    };
    let (locked, ()) = tokio::join!(waiting, killing);
    locked.unwrap().write(&record(1)).await.unwrap();
}

#[tokio::test]
async fn two_processes_never_hold_the_lock_at_once() {
    let room = Room::new();
    let mut others = [Other::start(&room, "count"), Other::start(&room, "count")];
    count(&room.store(), room.folder.path()).await;
    for other in &mut others {
        other.expect("counted");
    }
    assert_eq!(room.store().read(&key()).await.unwrap(), Some(record(3 * ROUNDS)));
}

/// The system ends the write in its middle, as a full disk does, by a limit on the size of files.
#[tokio::test]
async fn a_write_that_breaks_off_keeps_the_old_record() {
    let room = Room::new();
    write(&room.store(), &record(1)).await.unwrap();
    let before = room.bytes();
    let mut shell = Command::new("sh");
    // In units of 512 or 1024 bytes. A shell's ignored signal is ignored in what it becomes.
    shell
        .args(["-c", r#"trap '' XFSZ; ulimit -f 16; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap());
    let told = Other::spawn(&room, "write large", shell).expect("told:");
    assert!(told.starts_with("unwritable "), "{told}");
    assert!(told.contains("File too large") && !told.contains(CANARY), "{told}");
    assert_eq!(room.bytes(), before);
    assert_eq!(room.names().len(), 2, "{:?}", room.names());
    // The same write without the limit.
    assert_eq!(Other::start(&room, "write large").expect("told:"), "fine");
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_to_is_told_and_keeps_the_old_record() {
    let room = Room::new();
    write(&room.store(), &record(1)).await.unwrap();
    let before = room.bytes();
    // Permissions do not bind root, so root's child is nobody.
    let root = fs::metadata(room.folder.path()).unwrap().uid() == 0;
    let command = || {
        if !root {
            return Command::new(std::env::current_exe().unwrap());
        }
        // By the link: nobody may be unable to walk to the binary.
        let mut command = Command::new("/proc/self/exe");
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    if root {
        let files = room.names().into_iter().map(|name| room.directory().join(name));
        for path in files.chain([room.folder.path().to_owned(), room.path("key"), room.directory()]) {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let mode = |mode| fs::set_permissions(room.directory(), fs::Permissions::from_mode(mode)).unwrap();

    let mut other = Other::spawn(&room, "write when told", command());
    other.expect("ready");
    mode(0o500);
    drop(other.child.stdin.take());
    for _ in ["write", "forget"] {
        let told = other.expect("told:");
        assert!(told.starts_with("unwritable "), "{told}");
        assert!(told.contains("ermission denied"), "{told}");
    }
    let told = Other::spawn(&room, "open", command()).expect("told:");
    assert!(told.starts_with("unwritable "), "{told}");

    mode(0o700);
    assert_eq!(room.bytes(), before);
    assert_eq!(Other::spawn(&room, "open", command()).expect("told:"), "fine");
}
