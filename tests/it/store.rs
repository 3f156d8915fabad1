//! Several processes on one store, and a store that is damaged, moved, sealed anew or read by somebody else.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::json;
use sf_token_proxy::demo::{TokenFault, TokenFormat};

use crate::program::{LIMITS, Site, file, get, until};

/// Callers that never stop, and want every call served.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU32>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(address: SocketAddr) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let call = || {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let (status, text) = get(address, LIMITS).expect("an answer");
                    assert_eq!(status, 200, "{text}");
                    served.fetch_add(1, SeqCst);
                }
            })
        };
        let threads = vec![call(), call()];
        Self { stop, served, threads }
    }

    /// A few more calls were served.
    fn goes_on(&self) {
        let before = self.served.load(SeqCst);
        until("calls go on", || {
            self.served.load(SeqCst) > before + 4 || self.threads.iter().any(JoinHandle::is_finished)
        });
    }

    fn end(self) {
        self.stop.store(true, SeqCst);
        for thread in self.threads {
            thread.join().expect("every call must be served");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_store_make_one_login_for_each_revocation_and_none_for_a_restart() {
    for rotates in [false, true] {
        let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
        let grant = match rotates {
            true => site.refresh_grant(0, Some(&site.approved(0))),
            false => site.credentials(),
        };
        let config = site.config(&grant);
        site.org.reset();
        let (one, two) = (site.start(&config), site.start(&config));
        let (a, b) = (Load::on(one.proxy()), Load::on(two.proxy()));
        a.goes_on();
        b.goes_on();
        for round in 1..=20 {
            assert_eq!(site.org.stats().token_requests, round);
            site.org.revoke();
            a.goes_on();
            b.goes_on();
            until("the renewal", || site.org.stats().token_ok > round);
        }
        a.goes_on();
        b.goes_on();
        a.end();
        b.end();
        let stats = site.org.stats();
        assert_eq!(
            (stats.token_requests, stats.token_ok, stats.token_max_concurrent),
            (21, 21, 1)
        );
        assert_eq!(
            (stats.spent_refresh_presented, stats.refused_parallel_refreshes),
            (0, 0)
        );
        let adopted =
            |program: &crate::program::Program| program.metric("sf_token_proxy_tokens_adopted_total{org=\"main\"}");
        println!("adopted: {} and {}", adopted(&one), adopted(&two));
        assert!(
            (adopted(&one) + adopted(&two) - 21.0).abs() < 0.5,
            "each login serves both"
        );
        one.kill();
        two.kill();
        let (one, two) = (site.start(&config), site.start(&config));
        one.serves();
        two.serves();
        assert_eq!(
            site.org.stats().token_requests,
            21,
            "after a restart the stored token serves"
        );
        drop((one, two));
        site.org.stop().await;
    }
}

/// The soonest renewal there is comes after half a minute.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_store_make_one_login_for_each_renewal_that_is_due() {
    let site = Site::new(|settings| {
        settings.web_apps[0].rotation = true;
        settings.token_format = TokenFormat::Jwt {
            lifetime: Duration::from_secs(38),
        };
    })
    .await;
    let config = site.config(&site.refresh_grant(0, Some(&site.approved(0))));
    site.org.reset();
    let (one, two) = (site.start(&config), site.start(&config));
    let (a, b) = (Load::on(one.proxy()), Load::on(two.proxy()));
    let minted = |program: &crate::program::Program| {
        program.metric("sf_token_proxy_token_minted_timestamp_seconds{org=\"main\"}")
    };
    a.goes_on();
    b.goes_on();
    let first = minted(&one);
    assert!((minted(&two) - first).abs() < 1.0);
    until("both have another", || minted(&one) > first && minted(&two) > first);
    a.goes_on();
    b.goes_on();
    a.end();
    b.end();
    assert!((minted(&two) - minted(&one)).abs() < 1.0, "it is the same one");
    let stats = site.org.stats();
    assert_eq!(
        (stats.token_requests, stats.token_max_concurrent, stats.api_401),
        (2, 1, 0)
    );
    drop((one, two));
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_in_its_login_frees_the_other() {
    for rotates in [false, true] {
        let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
        let grant = match rotates {
            true => site.refresh_grant(0, Some(&site.approved(0))),
            false => site.credentials(),
        };
        let config = site.config(&grant);
        let (mut one, two) = (site.start(&config), site.start(&config));
        one.serves();
        two.serves();
        site.org.reset();
        site.org.fail_token(TokenFault {
            fail: 1,
            hang: Duration::from_secs(60),
            reply: None,
        });
        site.org.revoke();
        let call = |address: SocketAddr| std::thread::spawn(move || get(address, LIMITS));
        let lost = call(one.proxy());
        until("the login is there", || site.org.stats().token_requests == 1);
        let waiting = call(two.proxy());
        until("the other wants one, too", || {
            two.printed().contains("\"event\":\"rejected\"")
        });
        assert_eq!(site.org.stats().token_requests, 1, "one at a time");
        one.strike();
        assert_eq!(lost.join().unwrap(), None);
        let (status, text) = waiting.join().unwrap().unwrap();
        assert_eq!(status, 200, "{text}");
        assert_eq!(site.org.stats().token_requests, 2);
        assert_eq!(site.org.stats().spent_refresh_presented, 0);
        drop((one, two));
        site.org.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_named_and_left_as_it_is_and_only_refresh_tokens_wait_for_it() {
    let site = Site::new(|_| {}).await;
    let jwt = site.files.jwt.as_ref().unwrap();
    let mut config = site.config(&site.credentials());
    config["orgs"]["bearer"] = json!({"login_url": site.files.login_url, "grant": {"jwt_bearer": {
        "client_id": jwt.client_id, "username": jwt.username, "private_key": file(&jwt.key_file),
    }}});
    let person = site.refresh_grant(0, Some(&site.approved(0)));
    config["orgs"]["person"] = json!({"login_url": site.files.login_url, "grant": person});
    let orgs = ["main", "bearer", "person"];
    let listeners = orgs.map(|org| json!({"address": "127.0.0.1:0", "org": org}));
    config["listeners"] = json!(listeners);
    let program = site.start(&config);
    for listener in &program.listeners {
        assert_eq!(get(*listener, LIMITS).unwrap().0, 200);
    }
    assert_eq!(site.records().len(), 3);
    program.kill();
    let damaged: Vec<_> = site
        .records()
        .into_iter()
        .map(|path| {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, &bytes).unwrap();
            (path, bytes)
        })
        .collect();
    let program = site.start(&config);
    for revoked in [false, true] {
        if revoked {
            site.org.revoke();
        }
        for (org, listener) in orgs.iter().zip(&program.listeners) {
            let (status, text) = get(*listener, LIMITS).unwrap();
            let paths = damaged.iter().map(|(path, _)| path.display().to_string());
            let path = paths
                .filter(|path| path.contains(&format!("/{org}.")))
                .collect::<String>();
            if *org == "person" {
                assert_eq!(status, 503, "{text}");
                assert!(text.contains(&path) && text.contains("damaged"), "{path}: {text}");
            } else {
                assert_eq!(status, 200, "{text}");
                until("it is logged", || program.printed().contains(&path));
            }
        }
    }
    program.kill();
    for (path, bytes) in damaged {
        assert_eq!(fs::read(&path).unwrap(), bytes, "{}", path.display());
    }
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sealing_key_is_replaced_over_two_restarts_without_a_login() {
    let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
    let mut config = site.config(&site.refresh_grant(0, Some(&site.approved(0))));
    site.org.reset();
    let program = site.start(&config);
    program.serves();
    program.kill();
    let before = fs::read(&site.records()[0]).unwrap();

    config["store"]["file"]["previous_key"] = config["store"]["file"]["key"].clone();
    config["store"]["file"]["key"] = site.put("key2", &"08".repeat(32)).into();
    let program = site.start(&config);
    program.serves();
    assert_eq!(site.org.stats().token_requests, 1, "the old key still opens it");
    site.org.revoke();
    program.serves();
    program.kill();
    assert_ne!(fs::read(&site.records()[0]).unwrap(), before);

    config["store"]["file"].as_object_mut().unwrap().remove("previous_key");
    let program = site.start(&config);
    program.serves();
    assert_eq!(site.org.stats().token_requests, 2, "the new key alone opens it");
    program.kill();

    config["store"]["file"]["key"] = file(&site.path("key")).into();
    let sealed = fs::read(&site.records()[0]).unwrap();
    let program = site.start(&config);
    let (status, text) = program.get(LIMITS);
    assert_eq!(status, 503);
    assert!(text.contains("sealed with another key"), "{text}");
    assert_eq!(fs::read(&site.records()[0]).unwrap(), sealed);
    drop(program);
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_in_flight_is_done_without_or_waited_for() {
    for rotates in [false, true] {
        let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
        let grant = match rotates {
            true => site.refresh_grant(0, Some(&site.approved(0))),
            false => site.credentials(),
        };
        let program = site.start(&site.config(&grant));
        program.serves();
        site.org.reset();
        let (here, away) = (site.path("records"), site.path("records.away"));
        fs::rename(&here, &away).unwrap();
        program.serves();
        site.org.revoke();
        let (status, text) = program.get(LIMITS);
        if rotates {
            assert_eq!(status, 503);
            assert!(text.contains(here.to_str().unwrap()), "{text}");
            assert_eq!(site.org.stats().token_requests, 0, "nothing was presented");
            assert!(program.metrics().contains("sf_token_proxy_store_up{org=\"main\"} 0"));
        } else {
            assert_eq!(status, 200, "{text}");
        }
        fs::rename(&away, &here).unwrap();
        program.serves_soon();
        assert_eq!(site.org.stats().token_requests, 1);
        assert_eq!(site.org.stats().spent_refresh_presented, 0);
        drop(program);
        site.org.stop().await;
    }
}

/// Also with the store failing between the answer and the record: the org has rotated, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_while_the_org_answers_costs_no_second_login() {
    let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
    let program = site.start(&site.config(&site.refresh_grant(0, Some(&site.approved(0)))));
    program.serves();
    site.org.reset();
    site.org.fail_token(TokenFault {
        fail: 1,
        hang: Duration::from_millis(500),
        reply: None,
    });
    site.org.revoke();
    let address = program.proxy();
    let call = std::thread::spawn(move || get(address, LIMITS));
    until("the request is there", || site.org.stats().token_requests == 1);
    let (here, away) = (site.path("records"), site.path("records.away"));
    fs::rename(&here, &away).unwrap();
    until("the answer cannot be recorded", || {
        site.org.stats().token_ok == 1 && program.printed().contains("\"reason\":\"store\"")
    });
    let (status, text) = call.join().unwrap().unwrap();
    assert_eq!(status, 503, "{text}");
    fs::rename(&away, &here).unwrap();
    program.serves_soon();
    assert_eq!(site.org.stats().token_requests, 1);
    site.org.revoke();
    program.serves();
    let stats = site.org.stats();
    assert_eq!((stats.token_ok, stats.spent_refresh_presented), (2, 0));
    drop(program);
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_seen_in_logs_metrics_answers_or_in_the_stores_files() {
    let site = Site::new(|settings| {
        settings.web_apps[0].rotation = true;
        settings.web_apps[0].secret = Some("CANARY-web-secret-90b1".into());
    })
    .await;
    let seed = site.approved(0);
    assert!(seed.starts_with("5Aep861"));
    let config = site.config(&site.refresh_grant(0, Some(&seed)));
    let mut seen = String::new();
    let program = site.start(&config);
    program.serves();
    site.org.revoke();
    program.serves();
    seen.push_str(&program.metrics());
    // Refused, lost, dead.
    site.org.lose_token_answers(1);
    site.org.revoke();
    until("the answer is lost", || {
        let (_, text) = program.get(LIMITS);
        seen.push_str(&text);
        text.contains("sf-token-proxy login main")
    });
    seen.push_str(&program.metrics());
    seen.push_str(&program.kill());
    site.put("seed", &site.approved(0));
    let program = site.start(&config);
    program.serves();
    site.org.revoke_refresh_tokens();
    let (status, text) = program.get(LIMITS);
    assert_eq!(status, 503, "{text}");
    seen.push_str(&text);
    seen.push_str(&program.metrics());
    let printed = program.kill();
    assert!(
        printed.contains("\"level\":\"TRACE\"") && printed.contains("refresh_token_dead"),
        "or this proves little"
    );
    seen.push_str(&printed);
    let marks = ["5Aep861", "00DSB0000001pRC!", "CANARY", seed.as_str(), &"07".repeat(32)];
    for mark in marks {
        let at = seen.find(mark).map(|at| &seen[at.saturating_sub(300)..at]);
        assert_eq!(at, None, "`{mark}` was shown after this");
    }
    let mut files = 0;
    for entry in fs::read_dir(site.path("records")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        for mark in marks {
            let plain = bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
            assert!(!plain, "`{mark}` in {}", path.display());
        }
        files += 1;
    }
    assert!(files >= 2, "a record and its lock");
    site.org.stop().await;
}
