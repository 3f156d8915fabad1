//! docs/conformance.md against what `make clients` runs: the table is made from tests/clients/clients.json and the pins, each client
//! has a section that says how to configure it, and what it says is what the test does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

use crate::docs::{is_current, text};

const PAGE: &str = "docs/conformance.md";
const SURFACES: [&str; 9] = [
    "REST",
    "Bulk 2.0",
    "Bulk 1.0",
    "SOAP",
    "Metadata",
    "Streaming",
    "Pub/Sub",
    "Logins",
    "Other",
];

fn clients() -> Vec<Value> {
    let clients: Value = serde_json::from_str(&text("tests/clients/clients.json")).unwrap();
    clients.as_array().unwrap().clone()
}

fn word<'a>(client: &'a Value, key: &str) -> &'a str {
    client[key].as_str().unwrap_or_else(|| panic!("{key} of {client}"))
}

/// The version that set-up installs; `None`: the machine's own.
fn pinned(client: &Value) -> Option<String> {
    let (file, package) = client["pin"].as_str()?.split_once(' ').unwrap();
    let pins = text(&format!("tests/clients/{file}"));
    let version = match file {
        "package.json" => {
            let pins: Value = serde_json::from_str(&pins).unwrap();
            pins["dependencies"][package].as_str().map(str::to_owned)
        }
        _ => pins
            .lines()
            .find_map(|line| line.strip_prefix(package)?.strip_prefix("==").map(str::to_owned)),
    };
    Some(version.unwrap_or_else(|| panic!("{package} is not pinned in {file}")))
}

#[test]
fn the_table_of_clients_is_what_is_run() {
    let mut rows: BTreeMap<&str, (String, BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
    let mut order = vec![];
    let clients = clients();
    for client in &clients {
        let title = word(client, "title");
        let version = pinned(client).unwrap_or_else(|| "the machine's".into());
        let row = rows.entry(title).or_insert_with(|| {
            order.push(title);
            (version.clone(), BTreeSet::new(), BTreeSet::new())
        });
        assert_eq!(row.0, version, "{title} has two versions");
        row.1.insert(word(client, "listener"));
        for (surface, steps) in client["surfaces"].as_object().unwrap() {
            assert!(SURFACES.contains(&surface.as_str()), "{title}: {surface}");
            assert!(
                !steps.as_str().unwrap().trim().is_empty(),
                "{title}: no step of {surface}"
            );
            row.2.insert(surface);
        }
    }
    let surfaces = &SURFACES[..SURFACES.len() - 1];
    let mut table = format!("| Client | Version | Listener | {} |\n", surfaces.join(" | "));
    let _ = writeln!(table, "|{}", "---|".repeat(surfaces.len() + 3));
    for title in order {
        let (version, listeners, tested) = &rows[title];
        let listeners = Vec::from_iter(listeners.iter().copied()).join(", ");
        let cells: Vec<&str> = surfaces
            .iter()
            .map(|surface| if tested.contains(surface) { "yes" } else { "" })
            .collect();
        let _ = writeln!(table, "| {title} | {version} | {listeners} | {} |", cells.join(" | "));
    }
    is_current(PAGE, "clients", &table);
}

#[test]
fn each_client_has_a_section_with_what_its_test_does() {
    let page = text(PAGE);
    let (_, configure) = page.split_once("## How to configure each\n").unwrap();
    let sections: BTreeMap<&str, &str> = configure
        .split("\n### ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .collect();
    let clients = clients();
    let titles: BTreeSet<&str> = clients.iter().map(|client| word(client, "title")).collect();
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), titles);
    for client in &clients {
        let (title, how) = (word(client, "title"), word(client, "how"));
        let file = format!("tests/clients/{}", client["runs"][1].as_str().unwrap());
        assert!(sections[title].contains(how), "{PAGE}, {title}: no `{how}`");
        assert!(text(&file).contains(how), "{file}: no `{how}`");
    }
}

/// A step of the list that no file of its client speaks of would never be reported; `run.py` fails then, this says it sooner.
#[test]
fn each_step_is_one_that_its_client_has() {
    let shared = text("tests/clients/scenario.py");
    for client in clients() {
        let file = format!("tests/clients/{}", client["runs"][1].as_str().unwrap());
        let code = format!("{}\n{shared}", text(&file));
        for steps in client["surfaces"].as_object().unwrap().values() {
            for step in steps.as_str().unwrap().split(' ') {
                let quoted = [
                    format!("'{step}'"),
                    format!("\"{step}\""),
                    format!("def {}(", step.replace('-', "_")),
                ];
                assert!(
                    quoted.iter().any(|form| code.contains(form.as_str())),
                    "{file} has no step {step}"
                );
            }
        }
    }
}
