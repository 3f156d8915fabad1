//! What happens in the org, as events: platform events by REST, changes of accounts.
//!
//! Owns: the one schema that all platform events here have. Invariants: an event reaches both kinds of subscriber, if its payload can be read.
//! Units: Avro's binary encoding; times are milliseconds since 1970.
//! Fails with: an [`Answer`]; `None` for a payload that is not of the schema.
//! Source: Platform Events guide (REST publish, JSON and schema), Change Data Capture guide (header fields), Streaming API guide (PushTopic
//! notifications), the Avro specification.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, Problem},
    bus::{Encoded, Make, uuid},
    identity,
    record::hex,
    rest::Call,
    store::{ChangeKind, Snapshot, TELLS_OF_CHANGES, id18, iso, unix_millis, user_id},
    world::World,
};

pub(crate) const ALL_CHANGES: &str = "/data/ChangeEvents";
pub(crate) const ACCOUNT_CHANGES: &str = "/data/AccountChangeEvent";

/// Who did what no user is known for.
const NOBODY: &str = "automatedprocess";

/// The fields of every platform event here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Payload {
    created: i64,
    created_by: String,
    message: Option<String>,
    number: Option<f64>,
}

/// The name as the settings have it.
fn event_name<'a>(world: &'a World, name: &str) -> Option<&'a str> {
    let names = &world.settings.streaming.platform_events;
    names.iter().find(|n| n.eq_ignore_ascii_case(name)).map(String::as_str)
}

pub(crate) fn is_event(world: &World, name: &str) -> bool {
    event_name(world, name).is_some()
}

/// The event behind `/event/NAME`.
pub(crate) fn of_channel<'a>(world: &'a World, channel: &str) -> Option<&'a str> {
    let name = channel.strip_prefix("/event/")?;
    event_name(world, name).filter(|known| *known == name)
}

/// Avro's JSON form, with Salesforce's namespace and docs.
pub(crate) fn schema(name: &str) -> String {
    json!({
        "type": "record",
        "name": name,
        "namespace": "com.sforce.eventbus",
        "fields": [
            {"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"},
            {"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"},
            {"name": "Message__c", "type": ["null", "string"], "doc": "Data:Text", "default": null},
            {"name": "Number__c", "type": ["null", "double"], "doc": "Data:Double", "default": null},
        ],
    })
    .to_string()
}

/// A fingerprint of 22 characters, as Salesforce's are.
pub(crate) fn schema_id(schema: &str) -> String {
    URL_SAFE_NO_PAD.encode(&digest(&SHA256, schema.as_bytes()).as_ref()[..16])
}

/// The schema with this id.
pub(crate) fn schema_of(world: &World, id: &str) -> Option<String> {
    let names = &world.settings.streaming.platform_events;
    names
        .iter()
        .map(|name| schema(name))
        .find(|schema| schema_id(schema) == id)
}

/// `POST /sobjects/X__e`: taken into the queue, which is told as an error that is none.
pub(crate) fn publish_row(world: &World, call: &Call, object: &str) -> Result<Answer, Answer> {
    let name = event_name(world, object).ok_or_else(Answer::not_found)?;
    if call.method != Method::POST {
        return Err(Answer::method_not_allowed(&call.method, "POST"));
    }
    let Value::Object(values) = call.json()? else {
        return Err(Answer::error(
            400,
            "JSON_PARSER_ERROR",
            "The HTTP entity body is required to be one object",
        ));
    };
    let session = identity::bearer(&call.headers)
        .and_then(|token| world.sessions().peek(token, world.now()).map(|s| s.username.clone()));
    // In a composite the inner calls do not carry the header.
    let created_by = user_id(session.as_deref().unwrap_or(NOBODY));
    let payload = Payload::from_row(name, &values, created_by, world)?;
    let id = uuid();
    publish(world, name, id.clone(), payload.encode());
    let queued = json!([{"statusCode": "OPERATION_ENQUEUED", "message": id, "fields": []}]);
    // Every answer has the same id; events have none that could be asked for.
    Ok(Answer::json(
        201,
        json!({"id": id18("e00", 1), "success": true, "errors": queued}),
    ))
}

/// Whoever published: `payload` as it came. The replay id.
pub(crate) fn publish(world: &World, name: &str, id: String, payload: Bytes) -> u64 {
    let schema_id = schema_id(&schema(name));
    let make = Payload::decode(&payload).map(|payload| -> Make {
        let data = json!({
            "schema": schema_id,
            "payload": payload.to_json(),
            "event": {"EventUuid": id, "EventApiName": name},
        });
        Box::new(move || data.clone())
    });
    let encoded = Encoded { id, schema_id, payload };
    let now = world.now();
    world.bus().publish(&format!("/event/{name}"), now, make, Some(encoded))
}

/// Tells of the rows changed since the last time. Called when a call is done, so that what was rolled back is never told.
pub(crate) fn publish_changes(world: &World) {
    let now = world.now();
    let changed: Vec<(ChangeKind, Arc<Snapshot>)> = {
        let mut store = world.store();
        let Some(table) = store.table(TELLS_OF_CHANGES) else {
            return;
        };
        let changes = table.take_changes();
        let row = |place| Arc::new(table.snapshot(place));
        changes.iter().map(|change| (change.kind, row(change.place))).collect()
    };
    let topics = &world.settings.streaming.push_topics;
    let topics: Vec<String> = topics.iter().map(|topic| format!("/topic/{topic}")).collect();
    let mut bus = world.bus();
    for (kind, row) in changed {
        for topic in &topics {
            let row = Arc::clone(&row);
            bus.publish(topic, now, Some(Box::new(move || push_notification(kind, &row))), None);
        }
        for channel in [ALL_CHANGES, ACCOUNT_CHANGES] {
            let row = Arc::clone(&row);
            bus.publish(channel, now, Some(Box::new(move || change_event(kind, &row))), None);
        }
    }
}

fn push_notification(kind: ChangeKind, row: &Snapshot) -> Value {
    let kind = match kind {
        ChangeKind::Created => "created",
        ChangeKind::Updated => "updated",
        ChangeKind::Deleted => "deleted",
    };
    json!({
        "event": {"createdDate": zulu(row.modified), "type": kind},
        "sobject": {"Id": row.id, "Name": row.fields().find(|(name, _)| *name == "Name").map(|(_, value)| value)},
    })
}

/// All fields that have a value, changed or not, and no `changedFields`: the rows here do not know what they were.
fn change_event(kind: ChangeKind, row: &Snapshot) -> Value {
    let kind = match kind {
        ChangeKind::Created => "CREATE",
        ChangeKind::Updated => "UPDATE",
        ChangeKind::Deleted => "DELETE",
    };
    let mut payload = Map::new();
    if kind != "DELETE" {
        let filled = row.fields().filter(|(_, value)| !value.is_null());
        payload.extend(filled.map(|(name, value)| (name.to_owned(), value.clone())));
        payload.insert("LastModifiedDate".into(), json!(zulu(row.modified)));
    }
    let header = json!({
        "entityName": TELLS_OF_CHANGES,
        "recordIds": [row.id],
        "changeType": kind,
        "changeOrigin": "",
        "changedFields": [],
        "transactionKey": transaction_key(kind, row),
        "sequenceNumber": 1,
        "commitTimestamp": row.modified,
        "commitNumber": row.modified,
        "commitUser": user_id(NOBODY),
    });
    payload.insert("ChangeEventHeader".into(), header);
    json!({"schema": schema_id("AccountChangeEvent"), "payload": payload, "event": {}})
}

/// The same whenever the event is read.
fn transaction_key(kind: &str, row: &Snapshot) -> String {
    let of = format!("{kind}{}{}", row.id, row.modified);
    let key = hex(&digest(&SHA256, of.as_bytes()).as_ref()[..16]);
    [&key[..8], &key[8..12], &key[12..16], &key[16..20], &key[20..]].join("-")
}

/// `2026-11-21T10:00:00.000Z`.
fn zulu(millis: u64) -> String {
    iso(millis).replace("+0000", "Z")
}

impl Payload {
    fn from_row(name: &str, values: &Map<String, Value>, created_by: String, world: &World) -> Result<Self, Problem> {
        let created = i64::try_from(unix_millis(world.now())).unwrap_or(i64::MAX);
        let mut payload = Self {
            created,
            created_by,
            message: None,
            number: None,
        };
        for (field, value) in values {
            let wrong = || Problem::new("JSON_PARSER_ERROR", format!("Cannot deserialize a value of {field}"));
            match field.as_str() {
                "attributes" => {}
                _ if value.is_null() => {}
                "Message__c" => payload.message = Some(value.as_str().ok_or_else(wrong)?.to_owned()),
                "Number__c" => payload.number = Some(value.as_f64().ok_or_else(wrong)?),
                _ => {
                    let message = format!("No such column '{field}' on sobject of type {name}");
                    return Err(Problem::new("INVALID_FIELD", message));
                }
            }
        }
        Ok(payload)
    }

    fn to_json(&self) -> Value {
        json!({
            "CreatedDate": zulu(u64::try_from(self.created).unwrap_or(0)),
            "CreatedById": self.created_by,
            "Message__c": self.message,
            "Number__c": self.number,
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_long(&mut out, self.created);
        put_text(&mut out, &self.created_by);
        put_long(&mut out, i64::from(self.message.is_some()));
        if let Some(message) = &self.message {
            put_text(&mut out, message);
        }
        put_long(&mut out, i64::from(self.number.is_some()));
        if let Some(number) = self.number {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.into()
    }

    /// `None` unless all of it is one payload.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = &mut &*bytes;
        let created = long(rest)?;
        let created_by = text(rest)?;
        let message = if is_some(rest)? { Some(text(rest)?) } else { None };
        let number = if is_some(rest)? {
            let (number, after) = rest.split_first_chunk::<8>()?;
            *rest = after;
            Some(f64::from_le_bytes(*number))
        } else {
            None
        };
        rest.is_empty().then_some(Self {
            created,
            created_by,
            message,
            number,
        })
    }
}

/// Zigzag, then seven bits a byte.
fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_long(out, i64::try_from(text.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn long(rest: &mut &[u8]) -> Option<i64> {
    let mut bits = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        bits |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
        }
    }
    None
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(long(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

/// Which branch of `["null", …]`.
fn is_some(rest: &mut &[u8]) -> Option<bool> {
    match long(rest)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload {
            created: 1_790_000_000_123,
            created_by: "005SB".into(),
            message: Some("hé".into()),
            number: Some(-1.5),
        }
    }

    #[test]
    fn the_encoding_is_avros() {
        let mut out = Vec::new();
        // The specification's own table, and both ends.
        for (value, expected) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            out.clear();
            put_long(&mut out, value);
            assert_eq!(out, expected, "{value}");
            assert_eq!(long(&mut &out[..]), Some(value));
        }
        let nothing = Payload {
            created: 1,
            created_by: "a".into(),
            message: None,
            number: None,
        };
        assert_eq!(nothing.encode()[..], [2, 2, b'a', 0, 0]);
        for whole in [payload(), nothing] {
            assert_eq!(Payload::decode(&whole.encode()), Some(whole));
        }
    }

    #[test]
    fn what_is_not_one_payload_is_not_decoded() {
        let whole = payload().encode();
        for end in 0..whole.len() {
            assert_eq!(Payload::decode(&whole[..end]), None, "{end}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(Payload::decode(&longer), None);
        assert_eq!(Payload::decode(&[0xff; 20]), None);
    }
}
