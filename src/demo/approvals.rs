//! Refresh tokens: who holds one, and which of them are spent.
//!
//! Owns: every approval of the org; the refresh tokens being answered right now.
//! Invariants: an approval has at most one living refresh token; a spent one never works again and is told from an unknown one for ever;
//! at most five living approvals for a user and app.
//! Fails with: nothing.
//! Source: SF §1.4.3 (rotation, simultaneous requests), §3.4 (five approvals).

use std::collections::HashSet;

use super::settings::letters;

/// A person's yes to an app: one line of refresh tokens.
#[derive(Debug)]
pub(crate) struct Approval {
    pub(crate) id: u64,
    pub(crate) client_id: String,
    pub(crate) username: String,
    pub(crate) scopes: Vec<String>,
    /// `None`: revoked.
    current: Option<String>,
    spent: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Approvals {
    all: Vec<Approval>,
    made: u64,
    answering: HashSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Living(u64),
    /// Rotated out of this approval, whether that lives or not.
    Spent(u64),
    Unknown,
}

/// A user's approvals of one app; the next one costs the oldest.
const MOST: usize = 5;

impl Approvals {
    /// The number of the next approval.
    pub(crate) fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Its refresh token, and the oldest approval if that had to go.
    pub(crate) fn approve(
        &mut self,
        id: u64,
        client_id: &str,
        username: &str,
        scopes: &[String],
    ) -> (String, Option<u64>) {
        let same = |a: &&Approval| a.current.is_some() && a.client_id == client_id && a.username == username;
        let living: Vec<u64> = self.all.iter().filter(same).map(|a| a.id).collect();
        let oldest = (living.len() >= MOST).then(|| living[0]);
        if let Some(oldest) = oldest {
            self.revoke(oldest);
        }
        let token = refresh_token();
        self.all.push(Approval {
            id,
            client_id: client_id.to_owned(),
            username: username.to_owned(),
            scopes: scopes.to_vec(),
            current: Some(token.clone()),
            spent: Vec::new(),
        });
        (token, oldest)
    }

    pub(crate) fn standing(&self, token: &str) -> Standing {
        for approval in &self.all {
            if approval.current.as_deref() == Some(token) {
                return Standing::Living(approval.id);
            }
            if approval.spent.iter().any(|spent| spent == token) {
                return Standing::Spent(approval.id);
            }
        }
        Standing::Unknown
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Approval> {
        self.all.iter().find(|approval| approval.id == id)
    }

    /// The new refresh token of a living approval; the old one is spent from now on.
    pub(crate) fn rotate(&mut self, id: u64) -> Option<String> {
        let approval = self.all.iter_mut().find(|approval| approval.id == id)?;
        let old = approval.current.as_mut()?;
        let token = refresh_token();
        approval.spent.push(std::mem::replace(old, token.clone()));
        Some(token)
    }

    /// Whether it was living.
    pub(crate) fn revoke(&mut self, id: u64) -> bool {
        let found = self.all.iter_mut().find(|approval| approval.id == id);
        found.and_then(|approval| approval.current.take()).is_some()
    }

    /// The numbers of those with a living refresh token.
    pub(crate) fn living(&self) -> Vec<u64> {
        let living = self.all.iter().filter(|approval| approval.current.is_some());
        living.map(|approval| approval.id).collect()
    }

    /// Whether nobody else is being answered with this refresh token; the caller then is, until [`Self::answered`].
    pub(crate) fn begin(&mut self, token: &str) -> bool {
        self.answering.insert(token.to_owned())
    }

    pub(crate) fn answered(&mut self, token: &str) {
        self.answering.remove(token);
    }
}

/// `5Aep861` and 80 more characters.
fn refresh_token() -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
    format!("5Aep861{}", letters(80, ALPHABET))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approve(approvals: &mut Approvals, user: &str) -> (u64, String, Option<u64>) {
        let id = approvals.next();
        let (token, oldest) = approvals.approve(id, "app", user, &[]);
        (id, token, oldest)
    }

    #[test]
    fn a_rotated_token_is_spent_and_stays_so() {
        let mut approvals = Approvals::default();
        let (id, first, _) = approve(&mut approvals, "user");
        let second = approvals.rotate(id).unwrap();
        assert_eq!(approvals.standing(&first), Standing::Spent(id));
        assert_eq!(approvals.standing(&second), Standing::Living(id));
        assert!(approvals.revoke(id) && !approvals.revoke(id));
        assert_eq!(approvals.standing(&first), Standing::Spent(id));
        assert_eq!(approvals.standing(&second), Standing::Unknown);
        assert_eq!(approvals.rotate(id), None);
    }

    #[test]
    fn the_sixth_approval_costs_the_oldest_of_that_user() {
        let mut approvals = Approvals::default();
        let (other, ..) = approve(&mut approvals, "other");
        let (first, token, _) = approve(&mut approvals, "user");
        for _ in 0..4 {
            assert_eq!(approve(&mut approvals, "user").2, None);
        }
        assert_eq!(approve(&mut approvals, "user").2, Some(first));
        assert_eq!(approvals.standing(&token), Standing::Unknown);
        assert!(approvals.living().contains(&other));
        assert_eq!(approvals.living().len(), 6);
    }
}
