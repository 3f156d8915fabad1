//! Tokens of many users of one org: which user a call names, and whose token is kept.
//!
//! Off unless `listeners[].users` is set. A call says whose token it wants in a header, which ends here.
//! Owns: the users' accounts, bounded by count and idle time, and the tasks of their keepers.
//! Invariants: only a name that the allow-list takes costs a login; logins of all users together are bounded by a budget
//! of their own, beside each user's; a user that is let go stops when its last call has ended.
//! Source: design §5; SF §1.4.1 (JWT bearer serves any number of users), §3.4 (limits are per user).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName};
use moka::{policy::EvictionPolicy, sync::Cache};
use prometheus::IntGauge;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{account::Account, guard::Refusal, surface::Surface};
use crate::{
    config,
    token::{Keeper, Tokens, kept::Kept},
};

/// Makes one user's tokens and the keeper that serves them.
pub type MakeUser = Box<dyn Fn(&str) -> (Tokens, Keeper<Kept>) + Send + Sync>;

/// The users of one listener.
pub struct Users {
    header: HeaderName,
    allow: Vec<String>,
    required: bool,
    /// The grant's own user, in lower case: the org's account.
    own: String,
    /// Another cloud's users: there is no cheap call to ask with.
    elsewhere: bool,
    accounts: Cache<String, Arc<Account>>,
    make: MakeUser,
    tasks: TaskTracker,
    stop: CancellationToken,
    kept: IntGauge,
}

impl Users {
    pub fn new(settings: &config::Users, own: &str, elsewhere: bool, make: MakeUser, kept: IntGauge) -> Self {
        Self {
            header: settings.header.clone(),
            allow: settings.allow.iter().map(|pattern| pattern.to_lowercase()).collect(),
            required: settings.required,
            own: own.to_lowercase(),
            elsewhere,
            accounts: Cache::builder()
                .max_capacity(settings.max)
                // By frequency, a newcomer would not be kept beside users who were busy once: a login for each call.
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(settings.idle)
                .build(),
            make,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            kept,
        }
    }

    /// The account of the user whom the call names; `None`: it names none, and need not. The header is taken away.
    pub fn account(&self, headers: &mut HeaderMap, surface: Surface) -> Result<Option<Arc<Account>>, Refusal> {
        let mut named = headers.get_all(&self.header).iter();
        let user = match (named.next(), named.next()) {
            (None, _) if self.required => return Err(Refusal::UserMissing),
            (None, _) => return Ok(None),
            (Some(name), None) => name
                .to_str()
                .map_err(|_| Refusal::UserNotAllowed)?
                .trim()
                .to_lowercase(),
            (Some(_), Some(_)) => return Err(Refusal::UserNotAllowed),
        };
        if user == self.own {
            headers.remove(&self.header);
            return Ok(None);
        }
        if !is_user_name(&user) || !self.allow.iter().any(|pattern| fits(pattern, &user)) {
            return Err(Refusal::UserNotAllowed);
        }
        // The tenant's token is the org's; a user's own core token is none for the tenant.
        if surface == Surface::DataCloud {
            return Err(Refusal::UserNotServed);
        }
        headers.remove(&self.header);
        Ok(Some(self.accounts.get_with(user.clone(), || self.start(&user))))
    }

    fn start(&self, user: &str) -> Arc<Account> {
        let (tokens, keeper) = (self.make)(user);
        let stop = self.stop.child_token();
        let ending = stop.clone();
        let kept = self.kept.clone();
        kept.inc();
        self.tasks.spawn(async move {
            keeper.run(ending).await;
            kept.dec();
        });
        Arc::new(Account::of_user(tokens, self.elsewhere, stop.drop_guard()))
    }

    /// Their secret has changed: logins that failed are tried again.
    pub fn retry(&self) {
        for (_, account) in &self.accounts {
            account.tokens.retry();
        }
    }

    /// Lets idle users go in time, until `stop`; then ends all keepers.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            // Either branch may be dropped: a sleep and a flag.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(SWEEP) => self.accounts.run_pending_tasks(),
            }
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// As Salesforce's are: an e-mail address in form, of at most 80 characters.
fn is_user_name(name: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !r#",;<>"*%/\\()[]:"#.contains(c);
    let parts = name
        .split_once('@')
        .is_some_and(|(user, domain)| !user.is_empty() && !domain.is_empty() && !domain.contains('@'));
    name.len() <= 80 && parts && name.chars().all(plain)
}

/// Whether a pattern takes a name; `*` stands for any run of characters. Both in lower case.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else {
            return false;
        };
        left = after;
    }
    left.ends_with(last)
}

const SWEEP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_one_address() {
        for good in ["anna@acme.example", "o'neil+x@acme.example.uat", "svc_1@a"] {
            assert!(is_user_name(good), "{good}");
        }
        for bad in [
            "",
            "@",
            "a@",
            "@b",
            "a@b@c",
            "a b@c",
            "x@y,anna@acme.example",
            "<x>@a",
            "*@a",
            "a%40b@c",
            "a/b@c",
            "a:b@c",
        ] {
            assert!(!is_user_name(bad), "{bad}");
        }
        assert!(!is_user_name(&format!("{}@a", "x".repeat(80))));
    }

    #[test]
    fn patterns_take_what_they_say() {
        for (pattern, name, taken) in [
            ("a@x.example", "a@x.example", true),
            ("a@x.example", "a@x.example.evil", false),
            ("*@x.example", "anna@x.example", true),
            ("*@x.example", "anna@x.example.evil", false),
            ("*@x.example", "anna@y.example", false),
            ("svc-*@x.example", "svc-1@x.example", true),
            ("svc-*@x.example", "1svc-1@x.example", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*", "anything@all", true),
            ("aa*aa", "aaa", false),
            ("a*a*a", "aa", false),
        ] {
            assert_eq!(fits(pattern, name), taken, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_made_of_the_name_takes_it(name in "[a-z@.]{1,12}", cut in 0usize..12) {
            let cut = cut.min(name.len());
            let pattern = format!("{}*{}", &name[..cut], &name[cut..]);
            prop_assert!(fits(&pattern, &name));
        }
    }
}
