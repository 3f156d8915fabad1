//! The messages of `eventbus.v1.PubSub`.
//!
//! Owns: nothing. Invariants: field numbers and types are those of Salesforce's `pubsub_api.proto`.
//! Source: forcedotcom/pub-sub-api, `pubsub_api.proto`. `auth_refresh` and the event headers are left out: they are "for internal Salesforce
//! use only" and "reserved for future use". ManagedSubscribe's messages are left out with it.

use bytes::Bytes;

#[derive(Clone, PartialEq, prost::Message)]
pub struct TopicRequest {
    #[prost(string, tag = "1")]
    pub topic_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TopicInfo {
    #[prost(string, tag = "1")]
    pub topic_name: String,
    #[prost(string, tag = "2")]
    pub tenant_guid: String,
    #[prost(bool, tag = "3")]
    pub can_publish: bool,
    #[prost(bool, tag = "4")]
    pub can_subscribe: bool,
    #[prost(string, tag = "5")]
    pub schema_id: String,
    #[prost(string, tag = "6")]
    pub rpc_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SchemaRequest {
    #[prost(string, tag = "1")]
    pub schema_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SchemaInfo {
    #[prost(string, tag = "1")]
    pub schema_json: String,
    #[prost(string, tag = "2")]
    pub schema_id: String,
    #[prost(string, tag = "3")]
    pub rpc_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ProducerEvent {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub schema_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub payload: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ConsumerEvent {
    #[prost(message, optional, tag = "1")]
    pub event: Option<ProducerEvent>,
    #[prost(bytes = "bytes", tag = "2")]
    pub replay_id: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishRequest {
    #[prost(string, tag = "1")]
    pub topic_name: String,
    #[prost(message, repeated, tag = "2")]
    pub events: Vec<ProducerEvent>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishResponse {
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<PublishResult>,
    #[prost(string, tag = "2")]
    pub schema_id: String,
    #[prost(string, tag = "3")]
    pub rpc_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub replay_id: Bytes,
    #[prost(message, optional, tag = "2")]
    pub error: Option<Error>,
    #[prost(string, tag = "3")]
    pub correlation_key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Error {
    #[prost(enumeration = "ErrorCode", tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub msg: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ErrorCode {
    Unknown = 0,
    Publish = 1,
    Commit = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ReplayPreset {
    Latest = 0,
    Earliest = 1,
    Custom = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct FetchRequest {
    #[prost(string, tag = "1")]
    pub topic_name: String,
    #[prost(enumeration = "ReplayPreset", tag = "2")]
    pub replay_preset: i32,
    #[prost(bytes = "bytes", tag = "3")]
    pub replay_id: Bytes,
    #[prost(int32, tag = "4")]
    pub num_requested: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct FetchResponse {
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<ConsumerEvent>,
    #[prost(bytes = "bytes", tag = "2")]
    pub latest_replay_id: Bytes,
    #[prost(string, tag = "3")]
    pub rpc_id: String,
    #[prost(int32, tag = "4")]
    pub pending_num_requested: i32,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// The bytes that protoc's own code would write; the tags are the contract.
    #[test]
    fn the_field_numbers_are_salesforces() {
        let fetch = FetchRequest {
            topic_name: "t".into(),
            replay_preset: ReplayPreset::Custom.into(),
            replay_id: Bytes::from_static(&[9]),
            num_requested: 5,
        };
        assert_eq!(fetch.encode_to_vec(), [0x0a, 1, b't', 0x10, 2, 0x1a, 1, 9, 0x20, 5]);
        let event = ProducerEvent {
            id: "i".into(),
            schema_id: "s".into(),
            payload: Bytes::from_static(&[7]),
        };
        let producer = [0x0a, 1, b'i', 0x12, 1, b's', 0x1a, 1, 7];
        assert_eq!(event.encode_to_vec(), producer);
        let answer = FetchResponse {
            events: vec![ConsumerEvent {
                event: Some(event.clone()),
                replay_id: Bytes::from_static(&[8]),
            }],
            latest_replay_id: Bytes::from_static(&[6]),
            rpc_id: "r".into(),
            pending_num_requested: 4,
        };
        let mut expected = vec![0x0a, 14, 0x0a, 9];
        expected.extend(producer);
        expected.extend([0x12, 1, 8, 0x12, 1, 6, 0x1a, 1, b'r', 0x20, 4]);
        assert_eq!(answer.encode_to_vec(), expected);
        let published = PublishResponse {
            results: vec![PublishResult {
                replay_id: Bytes::from_static(&[8]),
                error: Some(Error {
                    code: ErrorCode::Publish.into(),
                    msg: "m".into(),
                }),
                correlation_key: "c".into(),
            }],
            schema_id: "s".into(),
            rpc_id: "r".into(),
        };
        let expected = [
            0x0a, 13, 0x0a, 1, 8, 0x12, 5, 0x08, 1, 0x12, 1, b'm', 0x1a, 1, b'c', 0x12, 1, b's', 0x1a, 1, b'r',
        ];
        assert_eq!(published.encode_to_vec(), expected);
        let topic = TopicInfo {
            topic_name: "t".into(),
            tenant_guid: "g".into(),
            can_publish: true,
            can_subscribe: true,
            schema_id: "s".into(),
            rpc_id: "r".into(),
        };
        let expected = [
            0x0a, 1, b't', 0x12, 1, b'g', 0x18, 1, 0x20, 1, 0x2a, 1, b's', 0x32, 1, b'r',
        ];
        assert_eq!(topic.encode_to_vec(), expected);
    }
}
