use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::{
    clock::Clock,
    config::{OrgName, Vars},
    disk,
    metrics::Metrics,
};

/// A watch, and what it orders.
struct Watched {
    folder: tempfile::TempDir,
    watch: Watch,
    orders: mpsc::Receiver<Order>,
}

fn config(folder: &Path) -> Value {
    json!({
        "listeners": [{"address": "127.0.0.1:18080"}],
        "orgs": {"main": {"login_url": "https://acme.my.salesforce.com", "grant": {"client_credentials": {
            "client_id": "id", "client_secret": format!("file:{}", folder.join("secret").display()),
        }}}},
    })
}

/// More of `config`, which is good without it.
fn two(folder: &Path) -> Value {
    let mut config = config(folder);
    config["listeners"] = json!([
        {"address": "127.0.0.1:18080", "org": "main"}, {"address": "127.0.0.1:18081", "org": "main"},
    ]);
    config
}

impl Watched {
    /// It has looked once, as at the start.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "first").unwrap();
        fs::write(folder.path().join("config.yaml"), config(folder.path()).to_string()).unwrap();
        let source = Source::new(Some(&folder.path().join("config.yaml")), Vars::from([("", ""); 0]));
        let (send, orders) = mpsc::channel(8);
        let reloads = Reloads::new(Metrics::new(), Clock::system());
        let config = source.load().unwrap();
        let (mut watch, _) = Watch::new(source, config, reloads, send, Hangups::none());
        assert_eq!(watch.look(Why::Start).await, Outcome::Unchanged);
        Self { folder, watch, orders }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).unwrap();
    }

    /// Looks while `beside` goes on; what came of it, and how many listeners each configuration had that was ordered.
    async fn look(&mut self, why: Why, beside: impl Future<Output = ()>) -> (Outcome, Vec<usize>) {
        let mut ordered = Vec::new();
        let (watch, orders) = (&mut self.watch, &mut self.orders);
        let looking = async { tokio::join!(watch.look(why), beside).0 };
        let mut looking = std::pin::pin!(looking);
        loop {
            // Dropped half-way, an order stays in the channel.
            tokio::select! {
                biased;
                Some(order) = orders.recv() => match order {
                    Order::Become(prepared, reply) => {
                        ordered.push(prepared.config.listeners.len());
                        drop(reply.send(Ok(vec![])));
                    }
                    Order::Retry(_) => ordered.push(0),
                },
                outcome = &mut looking => {
                    while let Ok(Order::Retry(_)) = orders.try_recv() {
                        ordered.push(0);
                    }
                    return (outcome, ordered);
                }
            }
        }
    }

    async fn looks(&mut self) -> (Outcome, Vec<usize>) {
        self.look(Why::Time, async {}).await
    }

    fn status(&self) -> Value {
        self.watch.reloads.status()
    }

    fn failed(&self) -> u64 {
        let metrics = self.watch.reloads.metrics();
        metrics.reload.reloads.with_label_values(&["failed"]).get()
    }
}

/// Puts a file in the place of another. Time does not pass for the watch here, and in no time a file that is written in place could be found empty twice.
fn put(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

async fn after(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn half_a_file_is_not_taken_although_it_is_good() {
    let mut this = Watched::start().await;
    let (path, whole) = (
        this.folder.path().join("config.yaml"),
        two(this.folder.path()).to_string(),
    );
    // Good, and not what was meant.
    let mut half = config(this.folder.path());
    half["threads"] = json!(1);
    half["listeners"] = json!([{"address": "127.0.0.1:18082"}]);
    this.write("config.yaml", &half.to_string());
    let writer = async {
        after(250).await;
        fs::write(path, whole).unwrap();
    };
    let (outcome, ordered) = this.look(Why::Time, writer).await;
    assert_eq!((outcome, ordered), (Outcome::Taken, vec![2]));
}

#[tokio::test(start_paused = true)]
async fn who_asks_gets_what_is_there() {
    let mut this = Watched::start().await;
    this.write("config.yaml", &two(this.folder.path()).to_string());
    let asked = tokio::time::Instant::now();
    assert_eq!(this.look(Why::Asked, async {}).await, (Outcome::Taken, vec![2]));
    assert!(asked.elapsed() < LEFT_ALONE);
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_folder_that_is_swapped_is_not_waited_for() {
    use std::os::unix::fs::symlink;
    let mut this = Watched::start().await;
    let at = |name: &str| this.folder.path().join(name);
    for (folder, config) in [("..1", config(this.folder.path())), ("..2", two(this.folder.path()))] {
        fs::create_dir(at(folder)).unwrap();
        fs::write(at(folder).join("config.yaml"), config.to_string()).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/config.yaml", at("next")).unwrap();
    fs::rename(at("next"), at("config.yaml")).unwrap();
    assert_eq!(this.looks().await.0, Outcome::Unchanged);
    let at = |name: &str| this.folder.path().join(name);
    symlink("..2", at("..next")).unwrap();
    fs::rename(at("..next"), at("..data")).unwrap();
    let swapped = tokio::time::Instant::now();
    assert_eq!(this.looks().await, (Outcome::Taken, vec![2]));
    assert!(swapped.elapsed() < LEFT_ALONE);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_never_left_alone_is_not_taken_and_holds_nothing_up() {
    let mut this = Watched::start().await;
    let path = this.folder.path().join("config.yaml");
    this.write("secret", "second");
    for round in 0..2 {
        // Before the look, which could else be over before it begins.
        put(&path, &two(path.parent().unwrap()).to_string());
        let writer = async {
            for n in 0..40 {
                let mut config = two(path.parent().unwrap());
                config["upstream"] = json!({"connect_timeout": format!("{}s", 1 + n)});
                put(&path, &config.to_string());
                after(100).await;
            }
        };
        let (outcome, ordered) = this.look(Why::Time, writer).await;
        // The secret beside it counts, once.
        match round {
            0 => assert_eq!((outcome, ordered), (Outcome::Taken, vec![0])),
            _ => assert_eq!((outcome, ordered), (Outcome::Unchanged, vec![])),
        }
        assert!(this.watch.restless.contains(&path));
    }
    assert_eq!(this.looks().await, (Outcome::Taken, vec![2]));
    assert!(this.watch.restless.is_empty());
}

#[tokio::test(start_paused = true)]
async fn half_a_file_is_not_taken_either_when_what_was_there_before_was_refused() {
    let mut this = Watched::start().await;
    let folder = this.folder.path().to_owned();
    this.write("config.yaml", "orgs: nothing");
    this.write("secret", "");
    let (outcome, ordered) = this.looks().await;
    assert!(matches!(outcome, Outcome::Refused(_)) && ordered.is_empty());
    put(&folder.join("config.yaml"), &config(&folder).to_string());
    put(&folder.join("secret"), "half");
    let writer = async {
        for n in 0..40 {
            let mut half = config(&folder);
            half["upstream"] = json!({"connect_timeout": format!("{}s", 1 + n)});
            put(&folder.join("config.yaml"), &half.to_string());
            put(&folder.join("secret"), &format!("half {n}"));
            after(100).await;
        }
    };
    assert_eq!(this.look(Why::Time, writer).await, (Outcome::Unchanged, vec![]));
    this.write("config.yaml", &two(&folder).to_string());
    let (outcome, ordered) = this.looks().await;
    assert_eq!((outcome, ordered), (Outcome::Taken, vec![2, 0]));
}

#[tokio::test]
async fn what_was_refused_is_tried_again_though_no_file_changes_and_told_once() {
    let mut this = Watched::start().await;
    let mut https = config(this.folder.path());
    // A folder that cannot be made; nobody looks at it.
    this.write("in the way", "");
    https["listeners"][0]["tls"] = json!({"generate_in": this.folder.path().join("in the way/tls")});
    this.write("config.yaml", &https.to_string());
    assert!(matches!(this.looks().await.0, Outcome::Refused(_)));
    for _ in 0..3 {
        assert!(matches!(this.looks().await.0, Outcome::Refused(_)));
    }
    assert_eq!(this.failed(), 1);
    fs::remove_file(this.folder.path().join("in the way")).unwrap();
    assert_eq!(this.looks().await, (Outcome::Taken, vec![1]));
    assert_eq!(this.looks().await, (Outcome::Unchanged, vec![]));
}

#[tokio::test]
async fn a_secret_that_was_read_while_it_was_written_is_read_again() {
    let mut this = Watched::start().await;
    let org = OrgName::new("main");
    let key = "client_credentials.client_secret";
    // Empty for a moment, between the look and the reading.
    let problem = || Some("is empty".to_owned());
    this.watch.reloads.secret(&org, key, problem(), true);
    let (outcome, ordered) = this.looks().await;
    assert_eq!((outcome, ordered), (Outcome::Taken, vec![0]), "{}", this.status());
    assert_eq!(this.status()["refused_secrets"], json!({}));
    // One that stays bad is told once.
    this.write("secret", "");
    assert_eq!(this.looks().await, (Outcome::Taken, vec![]));
    let told = || {
        let metrics = this.watch.reloads.metrics();
        metrics.reload.secrets.with_label_values(&["main", "failed"]).get()
    };
    let once = told();
    for _ in 0..2 {
        assert_eq!(this.watch.look(Why::Time).await, Outcome::Unchanged);
    }
    let metrics = this.watch.reloads.metrics();
    assert_eq!(
        metrics.reload.secrets.with_label_values(&["main", "failed"]).get(),
        once
    );
}

#[tokio::test]
async fn a_disk_that_hangs_is_no_change_and_what_came_meanwhile_is_found() {
    let mut this = Watched::start().await;
    let path = this.folder.path().join("config.yaml");
    let (comes_back, hanging) = std::sync::mpsc::channel::<()>();
    let hung = disk::within(&path, Duration::from_millis(10), move || {
        let _ = hanging.recv();
        Ok(())
    });
    assert!(hung.is_err());
    this.write("config.yaml", &two(this.folder.path()).to_string());
    // What is on another disk counts.
    this.write("secret", "second");
    assert_eq!(this.looks().await, (Outcome::Taken, vec![0]));
    assert!(this.watch.unknown.contains(&path));
    assert_eq!(this.looks().await, (Outcome::Unchanged, vec![]));
    let (outcome, _) = this.look(Why::Asked, async {}).await;
    assert!(matches!(outcome, Outcome::Refused(problems) if problems.to_string().contains("its disk hangs")));
    drop(comes_back);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while this.looks().await.0 != Outcome::Taken {
        assert!(tokio::time::Instant::now() < deadline);
    }
    assert_eq!(this.watch.config.listeners.len(), 2);
}
