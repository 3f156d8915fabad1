//! What has been made to go wrong, or to change, since the start.
//!
//! Owns: the switches that the control API turns.
//! Invariants: a counted fault is used up one call at a time; `reset` brings back what the settings said.
//! Units: `fail` counts calls, -1 means until reset; spans are `Duration`.
//! Fails with: nothing.

use std::time::Duration;

use super::settings::{Latency, Settings};

/// A scripted answer in place of the true one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: String,
    pub headers: Vec<(String, String)>,
}

/// For the next `fail` token calls: wait `hang`, then say `reply`, or the truth if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFault {
    pub fail: i64,
    pub hang: Duration,
    pub reply: Option<Reply>,
}

/// For the next `fail` API calls (below `path_prefix`): say `reply`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiFault {
    pub fail: i64,
    pub path_prefix: String,
    pub reply: Reply,
}

#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) token: Option<TokenFault>,
    pub(crate) api: Vec<ApiFault>,
    pub(crate) latency: Latency,
    pub(crate) token_down: bool,
    pub(crate) api_down: bool,
    pub(crate) approved: bool,
    pub(crate) same_on_remint: bool,
    /// Rotation of refresh tokens for all apps, whatever their settings say.
    pub(crate) rotation: Option<bool>,
    pub(crate) password_flow: bool,
    /// Between a token call's decision and its answer.
    pub(crate) token_answer_delay: Duration,
    /// So many granted token calls end without their answer.
    pub(crate) lost_answers: u32,
    /// The org lives on its second instance.
    pub(crate) moved: bool,
    /// So many new streams at the Pub/Sub host are refused.
    pub(crate) refused_streams: u32,
}

impl Reply {
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "application/json;charset=UTF-8".into(),
            body: body.into(),
            headers: Vec::new(),
        }
    }

    /// The shape of the token endpoint's errors (SF §2).
    pub fn oauth_error(status: u16, error: &str, description: &str) -> Self {
        let body = serde_json::json!({"error": error, "error_description": description});
        Self::json(status, body.to_string())
    }
}

impl Faults {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            token: None,
            api: Vec::new(),
            latency: settings.latency,
            token_down: false,
            api_down: false,
            approved: true,
            same_on_remint: settings.same_token_on_remint,
            rotation: None,
            password_flow: true,
            token_answer_delay: Duration::ZERO,
            lost_answers: 0,
            moved: false,
            refused_streams: 0,
        }
    }

    /// The fault for this token call, if one is due.
    pub(crate) fn next_token(&mut self) -> Option<TokenFault> {
        let fault = self.token.as_mut()?;
        let due = fault.clone();
        if use_up(&mut fault.fail) {
            self.token = None;
        }
        Some(due)
    }

    /// Whether the answer to a token call that was granted is to be lost.
    pub(crate) fn loses_answer(&mut self) -> bool {
        let lost = self.lost_answers > 0;
        self.lost_answers = self.lost_answers.saturating_sub(1);
        lost
    }

    /// Whether a new stream at the Pub/Sub host is to be refused.
    pub(crate) fn refuses_stream(&mut self) -> bool {
        let refused = self.refused_streams > 0;
        self.refused_streams = self.refused_streams.saturating_sub(1);
        refused
    }

    /// The answer scripted for this API call, if one is due.
    pub(crate) fn next_api(&mut self, path: &str) -> Option<Reply> {
        let at = self.api.iter().position(|fault| path.starts_with(&fault.path_prefix))?;
        let reply = self.api[at].reply.clone();
        if use_up(&mut self.api[at].fail) {
            self.api.remove(at);
        }
        Some(reply)
    }
}

/// Takes one; whether that was the last.
fn use_up(left: &mut i64) -> bool {
    if *left > 0 {
        *left -= 1;
    }
    *left == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_fault_is_used_up_and_an_endless_one_is_not() {
        let mut faults = Faults::new(&Settings::default());
        let reply = Reply::oauth_error(400, "invalid_grant", "x");
        for (fail, expected) in [(2, 2), (-1, 5)] {
            faults.token = Some(TokenFault {
                fail,
                hang: Duration::ZERO,
                reply: Some(reply.clone()),
            });
            let seen = (0..5).filter(|_| faults.next_token().is_some()).count();
            assert_eq!(seen, expected, "fail {fail}");
        }
    }

    #[test]
    fn an_api_fault_counts_only_its_paths() {
        let mut faults = Faults::new(&Settings::default());
        faults.api.push(ApiFault {
            fail: 1,
            path_prefix: "/services/data/v66.0/query".into(),
            reply: Reply::json(503, "[]"),
        });
        assert_eq!(faults.next_api("/services/data/v66.0/limits"), None);
        assert!(faults.next_api("/services/data/v66.0/query/").is_some());
        assert_eq!(faults.next_api("/services/data/v66.0/query/"), None);
    }
}
