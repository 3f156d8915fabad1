//! Sessions: which access tokens live, and until when.
//!
//! Owns: every session of the org and each user's login count.
//! Invariants: an opaque session is extended only by use in the second half of its window; a revoked one never comes back.
//! Units: wall time is passed in; spans are `Duration`.
//! Fails with: [`RateExceeded`].
//! Source: SF §3.1 (idle timer), §3.2 (JWT format: fixed life), §3.3 (same token), §3.4 (3,600 logins an hour).

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::settings::{TokenFormat, letters};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) client_id: String,
    pub(crate) username: String,
    pub(crate) scope: String,
    pub(crate) issued: SystemTime,
    pub(crate) expires: SystemTime,
    /// The approval (refresh token) it was made from, and ends with.
    pub(crate) approval: Option<u64>,
    /// Made by the username-password flow.
    pub(crate) password: bool,
    /// Has been exchanged for a Data Cloud token.
    pub(crate) exchanged: bool,
    sliding: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_token: HashMap<String, Session>,
    logins: HashMap<String, VecDeque<SystemTime>>,
    ended: watch::Sender<()>,
}

/// What a mint needs to know of the org's policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) timeout: Duration,
    pub(crate) same_token: bool,
    pub(crate) remint_extends: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RateExceeded;

const HOUR: Duration = Duration::from_secs(3600);

impl Sessions {
    /// Counts one login of `username`.
    pub(crate) fn login(&mut self, username: &str, limit: usize, now: SystemTime) -> Result<(), RateExceeded> {
        let logins = self.logins.entry(username.to_owned()).or_default();
        while logins.front().is_some_and(|at| *at + HOUR <= now) {
            logins.pop_front();
        }
        if logins.len() >= limit {
            return Err(RateExceeded);
        }
        logins.push_back(now);
        Ok(())
    }

    /// The living opaque session like this one (user, app, scopes, approval), if minting again gives it again.
    pub(crate) fn again(&mut self, like: &Session, policy: Policy, now: SystemTime) -> Option<String> {
        if !policy.same_token {
            return None;
        }
        let (token, session) = self
            .by_token
            .iter_mut()
            .find(|(_, session)| session.is_like(like) && now < session.expires)?;
        if policy.remint_extends {
            session.expires = now + policy.timeout;
        }
        Some(token.clone())
    }

    pub(crate) fn open(&mut self, token: String, session: Session) {
        self.by_token.insert(token, session);
    }

    /// The session behind a token, used now; `None` if it is dead or never was.
    pub(crate) fn touch(&mut self, token: &str, now: SystemTime) -> Option<&Session> {
        let session = self.by_token.get_mut(token)?;
        if now >= session.expires {
            self.by_token.remove(token);
            return None;
        }
        if let Some(timeout) = session.sliding
            && now >= session.expires - timeout / 2
        {
            session.expires = now + timeout;
        }
        self.by_token.get(token)
    }

    /// As [`Sessions::touch`], without counting as use.
    pub(crate) fn peek(&self, token: &str, now: SystemTime) -> Option<&Session> {
        self.by_token.get(token).filter(|s| now < s.expires)
    }

    /// Whether the token was living until now.
    pub(crate) fn revoke(&mut self, token: &str, now: SystemTime) -> bool {
        let living = self.by_token.remove(token).is_some_and(|s| now < s.expires);
        self.ended.send_replace(());
        living
    }

    /// How many living ones ended.
    pub(crate) fn revoke_all(&mut self, now: SystemTime) -> usize {
        let living = self.living(now);
        self.by_token.clear();
        self.ended.send_replace(());
        living
    }

    /// Ends what was made from an approval.
    pub(crate) fn end_approval(&mut self, approval: u64) {
        self.by_token.retain(|_, session| session.approval != Some(approval));
        self.ended.send_replace(());
    }

    /// Speaks whenever sessions were ended before their time.
    pub(crate) fn ended(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }

    /// Marks the token as exchanged for a Data Cloud token; says whether it had been before. No use of the session: whether an exchange
    /// is one is not confirmed (SF §9.1), so the idle timer runs on.
    pub(crate) fn exchange(&mut self, token: &str) -> bool {
        match self.by_token.get_mut(token) {
            Some(session) => std::mem::replace(&mut session.exchanged, true),
            None => false,
        }
    }

    pub(crate) fn living(&self, now: SystemTime) -> usize {
        self.by_token.values().filter(|s| now < s.expires).count()
    }
}

impl Session {
    pub(crate) fn new(
        client_id: &str,
        username: &str,
        scope: &str,
        now: SystemTime,
        timeout: Duration,
        format: TokenFormat,
    ) -> Self {
        let (life, sliding) = match format {
            TokenFormat::Opaque => (timeout, Some(timeout)),
            TokenFormat::Jwt { lifetime } => (lifetime, None),
        };
        Self {
            client_id: client_id.to_owned(),
            username: username.to_owned(),
            scope: scope.to_owned(),
            issued: now,
            expires: now + life,
            approval: None,
            password: false,
            exchanged: false,
            sliding,
        }
    }

    /// In JWT format: a fixed life.
    pub(crate) fn is_jwt(&self) -> bool {
        self.sliding.is_none()
    }

    /// Whether a mint that asks for `other` is given this one. A password session that has been exchanged for Data Cloud is not given again:
    /// a new login is what makes the next exchange possible (SF §9.3).
    fn is_like(&self, other: &Self) -> bool {
        let same_app = self.client_id == other.client_id && self.username == other.username;
        let same_kind = self.approval == other.approval && self.password == other.password;
        same_app
            && same_kind
            && self.scope == other.scope
            && self.sliding.is_some()
            && !(self.password && self.exchanged)
    }
}

/// `00D` + 12 characters + `!` + about 96 characters with `.` and `_` among them.
pub(crate) fn opaque_token(org_id: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
    let org = &org_id[..15];
    format!(
        "{org}!AQ4AQ{}.{}_{}",
        letters(40, ALPHABET),
        letters(30, ALPHABET),
        letters(19, ALPHABET)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const TIMEOUT: Duration = Duration::from_secs(30 * 60);

    fn with_session(format: TokenFormat) -> (Sessions, SystemTime) {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let mut sessions = Sessions::default();
        let session = Session::new("app", "user", "api", start, TIMEOUT, format);
        sessions.open("t".into(), session);
        (sessions, start)
    }

    /// SF §3.1: with 30 min, a call at minute 10 does not extend, one at minute 20 does (then 30 more).
    #[test]
    fn only_use_in_the_second_half_extends() {
        let (mut sessions, start) = with_session(TokenFormat::Opaque);
        assert!(sessions.touch("t", start + 10 * MINUTE).is_some());
        assert_eq!(sessions.peek("t", start).unwrap().expires, start + 30 * MINUTE);
        assert!(sessions.touch("t", start + 20 * MINUTE).is_some());
        assert_eq!(sessions.peek("t", start).unwrap().expires, start + 50 * MINUTE);
        assert!(sessions.touch("t", start + 50 * MINUTE).is_none());
    }

    #[test]
    fn an_unused_session_dies_at_its_timeout() {
        let (mut sessions, start) = with_session(TokenFormat::Opaque);
        assert!(sessions.touch("t", start + 10 * MINUTE).is_some());
        assert_eq!(sessions.living(start + 30 * MINUTE), 0);
        assert!(sessions.touch("t", start + 30 * MINUTE).is_none());
    }

    #[test]
    fn use_does_not_extend_a_jwt() {
        let (mut sessions, start) = with_session(TokenFormat::Jwt { lifetime: 30 * MINUTE });
        assert!(sessions.touch("t", start + 29 * MINUTE).is_some());
        assert!(sessions.touch("t", start + 30 * MINUTE).is_none());
    }

    #[test]
    fn a_mint_gives_the_living_token_again_and_a_new_one_after() {
        let (mut sessions, start) = with_session(TokenFormat::Opaque);
        let mut policy = Policy {
            timeout: TIMEOUT,
            same_token: true,
            remint_extends: false,
        };
        let like = |user: &str, scope: &str| Session::new("app", user, scope, start, TIMEOUT, TokenFormat::Opaque);
        let same = like("user", "api");
        assert_eq!(sessions.again(&same, policy, start).as_deref(), Some("t"));
        assert_eq!(sessions.again(&like("other", "api"), policy, start), None);
        assert_eq!(sessions.again(&like("user", "api id"), policy, start), None);
        let of_approval = Session {
            approval: Some(1),
            ..same.clone()
        };
        assert_eq!(sessions.again(&of_approval, policy, start), None);
        assert_eq!(sessions.again(&same, policy, start + TIMEOUT), None);
        policy.same_token = false;
        assert_eq!(sessions.again(&same, policy, start), None);
        assert_eq!(sessions.peek("t", start).unwrap().expires, start + TIMEOUT);
        policy = Policy {
            same_token: true,
            remint_extends: true,
            ..policy
        };
        sessions.again(&same, policy, start + 5 * MINUTE);
        assert_eq!(sessions.peek("t", start).unwrap().expires, start + 35 * MINUTE);
    }

    #[test]
    fn logins_are_counted_over_a_rolling_hour() {
        let (mut sessions, start) = with_session(TokenFormat::Opaque);
        for _ in 0..3 {
            assert_eq!(sessions.login("user", 3, start), Ok(()));
        }
        assert_eq!(sessions.login("user", 3, start + 59 * MINUTE), Err(RateExceeded));
        assert_eq!(sessions.login("other", 3, start), Ok(()));
        assert_eq!(sessions.login("user", 3, start + 60 * MINUTE), Ok(()));
    }

    #[test]
    fn an_opaque_token_looks_like_salesforces() {
        let token = opaque_token("00DSB0000001pRC2AY");
        let (org, rest) = token.split_once('!').unwrap();
        assert_eq!(org, "00DSB0000001pRC");
        assert!(
            rest.contains('.') && rest.contains('_') && token.len() == 112,
            "{}",
            token.len()
        );
    }
}
