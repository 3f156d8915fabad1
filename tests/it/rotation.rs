//! Refresh tokens that rotate, and a proxy that is killed wherever it can be.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use sf_token_proxy::demo::TokenFault;

use crate::program::{LIMITS, Program, Site, get, until};

/// A rotating grant, and the shim that kills.
struct Killer {
    site: Site,
    config: Value,
    shim: PathBuf,
}

/// What became of one renewal that was interrupted.
#[derive(Debug)]
struct Outcome {
    /// What the process did, in order; the last is where it died.
    points: Vec<String>,
    died: bool,
    /// The org did its part.
    rotated: bool,
    alive: bool,
}

impl Killer {
    async fn new() -> Self {
        let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
        let shim = site.path("kill_at.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/kill_at.c");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .arg(&shim)
            .arg(source)
            .arg("-ldl")
            .status();
        assert!(made.unwrap().success());
        let grant = site.refresh_grant(0, Some(&site.approved(0)));
        let config = site.config(&grant);
        Self { site, config, shim }
    }

    fn start(&self) -> Program {
        let (order, log) = (self.site.path("order"), self.site.path("log"));
        let records = self.site.path("records");
        let environment = [
            ("LD_PRELOAD", self.shim.as_path()),
            ("KILL_AT_ORDER", &order),
            ("KILL_AT_LOG", &log),
            ("KILL_AT_STORE", &records),
        ];
        self.site.start_with(&self.config, &environment)
    }

    /// One renewal, killed before its `at`th point; then a restart. `program` serves before and after.
    fn renewal(&self, program: &mut Program, at: usize) -> Outcome {
        let done = self.site.org.stats().token_ok;
        self.site.org.revoke();
        let _ = fs::remove_file(self.site.path("log"));
        self.site.put("order", &(done * 1000 + at as u64).to_string());
        let answer = get(program.proxy(), LIMITS);
        fs::remove_file(self.site.path("order")).unwrap();
        let died = answer.is_none();
        if died {
            program.ended();
        } else {
            assert_eq!(answer.unwrap().0, 200, "{}", program.printed());
            assert!(!program.has_ended());
        }
        let log = fs::read_to_string(self.site.path("log")).unwrap_or_default();
        let rotated = self.site.org.stats().token_ok > done;
        let alive = if died { self.restarted(program) } else { true };
        Outcome {
            points: log.lines().map(str::to_owned).collect(),
            died,
            rotated,
            alive,
        }
    }

    /// Whether the grant survived; if not, the advice is followed.
    fn restarted(&self, program: &mut Program) -> bool {
        *program = self.start();
        let (status, text) = program.get(LIMITS);
        if status == 200 {
            return true;
        }
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("sf-token-proxy login main"), "{text}");
        // What it prints is read beside.
        until("the reason is in the log", || {
            program.printed().contains("refresh_outcome_unknown")
        });
        self.site.put("seed", &self.site.approved(0));
        *program = self.start();
        program.serves();
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_point_of_a_renewal_loses_no_grant_that_can_be_kept_and_presents_no_spent_token() {
    let killer = Killer::new().await;
    let mut program = killer.start();
    program.serves();
    let whole = killer.renewal(&mut program, 0);
    assert!(!whole.died && whole.rotated);
    let all = whole.points.len();
    println!("one renewal: {}", whole.points.join(" "));
    assert_eq!(renames(&whole.points), 2, "noted, and recorded: {whole:?}");
    let (mut renewals, mut lost, mut hit) = (0, 0, BTreeMap::<String, u32>::new());
    let mut at = 0;
    // The connection pool makes a difference of a point or two between renewals.
    while at < all + 2 || renewals < 50 {
        at += 1;
        let outcome = killer.renewal(&mut program, (at - 1) % (all + 2) + 1);
        renewals += 1;
        if !outcome.died {
            assert!(outcome.rotated);
            continue;
        }
        let (last, before) = outcome.points.split_last().unwrap();
        // The second rename puts the new refresh token in place.
        let recorded = renames(before) == 2;
        let phase = match (renames(before), outcome.rotated) {
            (0, _) => "before the note",
            (1, false) => "noted, not sent",
            (1, true) => "answered, not recorded",
            _ => "recorded",
        };
        *hit.entry(format!("{phase}: {last}")).or_default() += 1;
        let alive = !outcome.rotated || recorded;
        assert_eq!(outcome.alive, alive, "killed at point {at}: {outcome:?}");
        lost += u32::from(!alive);
        assert_eq!(killer.site.org.stats().spent_refresh_presented, 0, "{outcome:?}");
    }
    println!("{renewals} renewals, {lost} answers lost, killed at:");
    for (point, times) in &hit {
        println!("{times:4} {point}");
    }
    for point in [
        "before the note: send",
        "before the note: recv",
        "before the note: lock",
        "before the note: create",
        "before the note: write",
        "before the note: fsync",
        "before the note: rename",
        "noted, not sent: flush",
        "noted, not sent: connect",
        "noted, not sent: send",
        "answered, not recorded: recv",
        "answered, not recorded: create",
        "answered, not recorded: write",
        "answered, not recorded: fsync",
        "answered, not recorded: rename",
        "recorded: flush",
        "recorded: send",
    ] {
        assert!(hit.contains_key(point), "never killed at `{point}`: {hit:?}");
    }
    assert!(killer.site.org.stats().by_grant.refresh_token >= 50);
    assert_eq!(killer.site.org.stats().spent_refresh_presented, 0);
    drop(program);
    killer.site.org.stop().await;
}

fn renames(points: &[String]) -> usize {
    points.iter().filter(|point| *point == "rename").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_the_org_has_the_request_loses_the_grant_only_if_the_org_rotated() {
    let killer = Killer::new().await;
    let org = &killer.site.org;
    let mut program = killer.start();
    program.serves();
    // Each with whether the org rotates.
    type Way = (&'static str, fn(&Site), Option<bool>);
    let ways: [Way; 4] = [
        (
            "the connection ends before the request is read",
            |site| site.org.down(true, false),
            Some(false),
        ),
        (
            "the request is there, and nothing was done",
            |site| {
                site.org.fail_token(TokenFault {
                    fail: 1,
                    hang: Duration::from_secs(60),
                    reply: None,
                });
            },
            Some(false),
        ),
        (
            "it is done, and the answer is lost",
            |site| site.org.lose_token_answers(1),
            Some(true),
        ),
        ("the answer is on its way", |_| {}, None),
    ];
    let mut answers = 0;
    for round in 0..3 {
        for (what, steer, rotates) in ways {
            org.reset();
            let before = org.stats();
            steer(&killer.site);
            org.revoke();
            let proxy = program.proxy();
            let calling = std::thread::spawn(move || get(proxy, LIMITS));
            match rotates {
                Some(false) if org.stats().token_requests == before.token_requests && what.starts_with("the conn") => {
                    until(what, || program.printed().contains("\"unreachable\""));
                }
                Some(false) => until(what, || org.stats().token_requests > before.token_requests),
                _ => until(what, || org.stats().token_ok > before.token_ok),
            }
            program.strike();
            let _ = calling.join().unwrap();
            org.down(false, false);
            let alive = killer.restarted(&mut program);
            answers += u32::from(rotates.is_none() && alive);
            if let Some(rotates) = rotates {
                assert_eq!(alive, !rotates, "{what}, round {round}");
            }
            assert_eq!(org.stats().spent_refresh_presented, 0, "{what}");
        }
    }
    println!("{answers} of 3 answers were recorded before the kill");
    drop(program);
    killer.site.org.stop().await;
}

/// Without a kill: the process itself lives on with what it knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_told_with_what_to_do_and_a_new_seed_heals_without_a_restart() {
    let killer = Killer::new().await;
    let org = &killer.site.org;
    let program = killer.start();
    program.serves();
    org.lose_token_answers(1);
    org.revoke();
    until("the answer is lost", || {
        program.get(LIMITS).1.contains("sf-token-proxy login main")
    });
    let asked = org.stats().by_grant.refresh_token;
    for _ in 0..3 {
        let (status, text) = program.get(LIMITS);
        assert_eq!(status, 503);
        assert!(text.contains("may be spent"), "{text}");
    }
    assert_eq!(org.stats().by_grant.refresh_token, asked);
    killer.site.put("seed", &killer.site.approved(0));
    program.serves_soon();
    assert_eq!(org.stats().spent_refresh_presented, 0);
    drop(program);
    killer.site.org.stop().await;
}
