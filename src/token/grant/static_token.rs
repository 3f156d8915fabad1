//! A token that somebody else puts in place: read, not minted.
//!
//! Invariants: read anew each time, so that a replaced one counts.
//! Fails with: `secret_unreadable`.

use super::{Found, read};
use crate::{config::Static, token::refusal::Refusal};

/// The token as it is now.
pub fn found(grant: &Static) -> Result<Found, Refusal> {
    Ok(Found {
        access_token: read("access_token", &grant.access_token)?,
        instance_url: None,
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::token::grant::tests::secret;

    #[test]
    fn a_replaced_token_counts_and_a_lost_one_is_named() {
        let (file, access_token) = secret("00D!first\n");
        let grant = Static { access_token };
        assert_eq!(found(&grant).unwrap().access_token.expose_secret(), "00D!first");
        std::fs::write(file.path(), "00D!second").unwrap();
        assert_eq!(found(&grant).unwrap().access_token.expose_secret(), "00D!second");
        drop(file);
        let refusal = found(&grant).err().unwrap();
        assert_eq!(refusal.reason, "secret_unreadable");
        assert!(refusal.description.unwrap().starts_with("`access_token`: "));
    }
}
