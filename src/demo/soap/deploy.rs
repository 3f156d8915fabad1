//! Packages of metadata in and out: `deploy`, `retrieve`, and how far they are.
//!
//! Owns: nothing; jobs live in [`Metadata`](super::Metadata).
//! Invariants: a check-only deployment changes nothing; a retrieve gives files back as they were deployed, and a `package.xml` that names them.
//! Units: a job waits `bulk_delay` in each state. Fails with: [`Fault`], or the job's own status `Failed`.
//! Source: the metadata WSDL; Metadata API developer guide, file-based calls. The words for a job that failed are not confirmed.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{
    Call, Fault, is_true,
    login::date,
    metadata::{Component, Metadata},
    types, zip,
};
use crate::demo::{
    store::{unix_millis, user_id},
    world::World,
    xml::Writer,
};

/// One deployment or retrieval.
pub(crate) struct Job {
    status: Status,
    created: u64,
    done: u64,
    username: String,
    work: Work,
}

enum Work {
    Deploy(Deploy),
    Retrieve(Retrieve),
}

struct Deploy {
    package: Bytes,
    check_only: bool,
    ignore_warnings: bool,
    rollback_on_error: bool,
    /// `DeployMessage`s, as they will be told.
    messages: String,
    components: usize,
    error: Option<&'static str>,
}

struct Retrieve {
    /// Types and the members wanted of each.
    wanted: Vec<(String, Vec<String>)>,
    single_package: bool,
    version: String,
    package: Vec<u8>,
    /// `fileProperties`, as they will be told.
    properties: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Pending,
    InProgress,
    Succeeded,
    Failed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    fn is_done(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

pub(super) fn deploy(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    // The WSDL's name is `ZipFile`; whether others are accepted is not confirmed.
    let text: String = call.operation.word("ZipFile").split_whitespace().collect();
    let package = STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty());
    let package = package.ok_or_else(|| Fault::client("ZipFile is not base64Binary"))?;
    let option = |name: &str| {
        let options = call.operation.child("DeployOptions");
        options.is_some_and(|options| is_true(options.word(name)))
    };
    let work = Work::Deploy(Deploy {
        package: package.into(),
        check_only: option("checkOnly"),
        ignore_warnings: option("ignoreWarnings"),
        rollback_on_error: option("rollbackOnError"),
        messages: String::new(),
        components: 0,
        error: None,
    });
    begin(call, out, "0Af", work);
    Ok(())
}

pub(super) fn retrieve(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    // `retrieveRequest` in the WSDL; jsforce calls it `request`, and has always been understood.
    let request = call.operation.children.first();
    let request = request.ok_or_else(|| Fault::client("retrieveRequest is missing"))?;
    let types = request.child("unpackaged").into_iter().flat_map(|p| p.all("types"));
    let wanted = types.map(|wanted| {
        let members = wanted.words("members").map(str::to_owned).collect();
        (wanted.word("name").to_owned(), members)
    });
    let work = Work::Retrieve(Retrieve {
        wanted: wanted.collect(),
        single_package: is_true(request.word("singlePackage")),
        version: request.word("apiVersion").to_owned(),
        package: Vec::new(),
        properties: String::new(),
    });
    begin(call, out, "09S", work);
    Ok(())
}

/// `AsyncResult`, and the work behind it.
fn begin(call: &Call<'_>, out: &mut Writer, prefix: &str, work: Work) {
    let now = unix_millis(call.world.now());
    let job = Job {
        status: Status::Pending,
        created: now,
        done: now,
        username: call.username.clone(),
        work,
    };
    let id = {
        let mut metadata = call.world.metadata();
        let id = metadata.next_id(prefix);
        metadata.jobs.insert(id.clone(), job);
        id
    };
    out.group("result", |out| {
        out.show("done", false);
        out.word("id", &id);
        out.word("state", "Queued");
    });
    let world = Arc::clone(call.world);
    call.world.tasks.spawn(async move { process(&world, &id).await });
}

async fn process(world: &World, id: &str) {
    tokio::time::sleep(world.settings.bulk_delay).await;
    if let Some(job) = world.metadata().jobs.get_mut(id) {
        job.status = Status::InProgress;
    }
    tokio::time::sleep(world.settings.bulk_delay).await;
    let now = unix_millis(world.now());
    let mut metadata = world.metadata();
    let Some(mut job) = metadata.jobs.remove(id) else {
        return;
    };
    let good = match &mut job.work {
        Work::Deploy(deploy) => deploy.run(&mut metadata, now),
        Work::Retrieve(retrieve) => retrieve.run(&metadata),
    };
    job.status = if good { Status::Succeeded } else { Status::Failed };
    job.done = now;
    metadata.jobs.insert(id.to_owned(), job);
}

impl Deploy {
    fn run(&mut self, metadata: &mut Metadata, now: u64) -> bool {
        let Some(files) = zip::read(&self.package) else {
            self.error = Some("the zip file cannot be read");
            return false;
        };
        let is_manifest = |(path, _): &(String, Bytes)| path.rsplit('/').next() == Some("package.xml");
        if !files.iter().any(is_manifest) {
            self.error = Some("No package.xml found");
            return false;
        }
        let mut seen: BTreeMap<(&str, String), Option<(String, bool)>> = BTreeMap::new();
        for (path, content) in files {
            let Some((kind, full_name, _)) = types::of_path(&path) else {
                continue;
            };
            let entry = seen.entry((kind.name, full_name)).or_default();
            if self.check_only {
                continue;
            }
            if let Some((component, created)) = metadata.put_file(&path, content, now) {
                entry.get_or_insert_with(|| (component.id.clone(), created));
            }
        }
        self.components = seen.len();
        let mut out = Writer::default();
        for ((kind, full_name), outcome) in &seen {
            out.group("componentSuccesses", |out| {
                let created = outcome.as_ref().is_some_and(|(_, created)| *created);
                out.show("changed", outcome.is_some());
                out.word("componentType", kind);
                out.show("created", created);
                out.word("createdDate", &date(now));
                out.show("deleted", false);
                let file = types::by_name(kind).map(|kind| kind.file(full_name));
                out.word("fileName", &file.unwrap_or_default());
                out.word("fullName", full_name);
                if let Some((id, _)) = outcome {
                    out.word("id", id);
                }
                out.show("success", true);
            });
        }
        self.messages = out.0;
        true
    }
}

impl Retrieve {
    fn run(&mut self, metadata: &Metadata) -> bool {
        let (mut out, mut files, mut manifest) = (Writer::default(), Vec::new(), Writer::default());
        for (kind, members) in &self.wanted {
            let asked = |component: &&Component| {
                let name = &component.full_name;
                members.iter().any(|member| member == "*" || member == name)
            };
            let found: Vec<&Component> = metadata.of_type(kind).filter(asked).collect();
            manifest.group("types", |manifest| {
                for component in &found {
                    manifest.word("members", &component.full_name);
                }
                manifest.word("name", kind);
            });
            for component in found {
                out.group("fileProperties", |out| component.properties(out));
                files.extend(component.files());
            }
        }
        manifest.word("version", &self.version);
        let manifest = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Package xmlns=\"http://soap.sforce.com/2006/04/metadata\">{}</Package>\n",
            manifest.0
        );
        files.push(("package.xml".to_owned(), manifest.into()));
        if !self.single_package {
            files
                .iter_mut()
                .for_each(|(path, _)| *path = format!("unpackaged/{path}"));
        }
        self.properties = out.0;
        let package = zip::write(&files);
        self.package = package.unwrap_or_default();
        !self.package.is_empty()
    }
}

fn unknown_job() -> Fault {
    Fault::new("INVALID_ID_FIELD", "invalid asyncProcessId")
}

/// `DeployResult`, in the order of the WSDL.
pub(super) fn check_deploy(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let metadata = call.world.metadata();
    let id = call.operation.word("asyncProcessId");
    let job = metadata.jobs.get(id).ok_or_else(unknown_job)?;
    let Work::Deploy(deploy) = &job.work else {
        return Err(unknown_job());
    };
    let with_details = is_true(call.operation.word("includeDetails"));
    let done = job.status.is_done();
    out.group("result", |out| {
        out.show("checkOnly", deploy.check_only);
        if done {
            out.word("completedDate", &date(job.done));
        }
        out.word("createdBy", &user_id(&job.username)[..15]);
        out.word("createdByName", "Practice User");
        out.word("createdDate", &date(job.created));
        out.group("details", |out| {
            if with_details && done {
                out.0 += &deploy.messages;
                out.group("runTestResult", |out| {
                    out.show("numFailures", 0);
                    out.show("numTestsRun", 0);
                    out.show("totalTime", "0.0");
                });
            }
        });
        out.show("done", done);
        if let Some(error) = deploy.error {
            out.word("errorMessage", error);
            out.word("errorStatusCode", "UNKNOWN_EXCEPTION");
        }
        out.word("id", id);
        out.show("ignoreWarnings", deploy.ignore_warnings);
        out.word("lastModifiedDate", &date(job.done));
        out.show("numberComponentErrors", 0);
        out.show("numberComponentsDeployed", deploy.components);
        out.show("numberComponentsTotal", deploy.components);
        out.show("numberTestErrors", 0);
        out.show("numberTestsCompleted", 0);
        out.show("numberTestsTotal", 0);
        out.show("rollbackOnError", deploy.rollback_on_error);
        out.show("runTestsEnabled", false);
        out.word("startDate", &date(job.created));
        out.word("status", job.status.name());
        out.show("success", job.status == Status::Succeeded);
    });
    Ok(())
}

/// `RetrieveResult`, in the order of the WSDL. Without `includeZip` the zip is given: the documentation's default is true.
pub(super) fn check_retrieve(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let metadata = call.world.metadata();
    let id = call.operation.word("asyncProcessId");
    let job = metadata.jobs.get(id).ok_or_else(unknown_job)?;
    let Work::Retrieve(retrieve) = &job.work else {
        return Err(unknown_job());
    };
    let wanted = call
        .operation
        .child("includeZip")
        .is_none_or(|flag| is_true(flag.text.trim()));
    let good = job.status == Status::Succeeded;
    out.group("result", |out| {
        out.show("done", job.status.is_done());
        if good {
            out.0 += &retrieve.properties;
        }
        out.word("id", id);
        out.word("status", job.status.name());
        out.show("success", good);
        if good && wanted {
            out.word("zipFile", &STANDARD.encode(&retrieve.package));
        } else {
            out.nil("zipFile");
        }
    });
    Ok(())
}
