//! What is allowed, and yet will hurt one day.
//!
//! Pure: the time is passed in.
//! Source: SF §1.4.3 (rotation), §1.4.5 (the end of the password flow).

use std::time::{Duration, SystemTime};

use super::{Config, Grant, Org, RotationPolicy, Store};

impl Config {
    /// One line each, with the key path; for `check` to print and for `run` to log.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let of = |(name, org): (&super::OrgName, &Org)| {
            self.warning(org, now)
                .map(|(key, text)| format!("orgs.{name}.grant.{key}: {text}"))
        };
        self.orgs.iter().filter_map(of).collect()
    }

    fn warning(&self, org: &Org, now: SystemTime) -> Option<(&'static str, &'static str)> {
        match &org.grant {
            Grant::Password(_) if now >= SystemTime::UNIX_EPOCH + PASSWORD_ENDS => Some((
                "password",
                "Salesforce has ended the username-password flow on 20 February 2027; use client_credentials or jwt_bearer",
            )),
            Grant::Password(_) => Some((
                "password",
                "Salesforce ends the username-password flow on 20 February 2027; move to client_credentials or jwt_bearer",
            )),
            Grant::RefreshToken(grant) if matches!(self.store, Store::Memory) => {
                let text = match (&grant.refresh_token, grant.rotation) {
                    (None, _) => {
                        "no refresh token is given, and the memory store cannot take one from `sf-token-proxy login`; set `store.file`"
                    }
                    (Some(_), RotationPolicy::Auto) => {
                        "with the memory store a rotated refresh token would be lost at a restart; set `store.file`, or `rotation: off` if you know that it is off"
                    }
                    (Some(_), RotationPolicy::Off) => return None,
                };
                Some(("refresh_token", text))
            }
            _ => None,
        }
    }
}

/// The beginning of 20 February 2027, UTC, since 1970.
const PASSWORD_ENDS: Duration = Duration::from_secs(1_803_081_600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Vars, from_yaml};

    fn told(grant: &str, store: &str, at: u64) -> Vec<String> {
        let yaml = format!("orgs: {{main: {{login_url: 'https://a.my.salesforce.com', grant: {grant}}}}}\n{store}");
        let config = from_yaml(&yaml, "c.yaml", &Vars::default()).unwrap();
        config.warnings(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
    }

    #[test]
    fn what_will_hurt_is_told() {
        let password = "{password: {client_id: i, client_secret: 'env:S', username: u@x, password: 'env:P'}}";
        let before = told(password, "", 1_803_081_599);
        assert_eq!(before.len(), 1);
        assert!(
            before[0].starts_with("orgs.main.grant.password: Salesforce ends "),
            "{before:?}"
        );
        let after = told(password, "", 1_803_081_600);
        assert!(after[0].contains("has ended"), "{after:?}");

        let refresh = |more: &str| format!("{{refresh_token: {{client_id: i{more}}}}}");
        let file = "store: {file: {directory: /x, key: 'env:K'}}";
        assert!(told(&refresh(""), "", 0)[0].contains("`sf-token-proxy login`"));
        let with_token = refresh(", refresh_token: 'env:T'");
        assert!(told(&with_token, "", 0)[0].contains("lost at a restart"));
        assert!(told(&with_token, file, 0).is_empty());
        assert!(told(&refresh(", refresh_token: 'env:T', rotation: off"), "", 0).is_empty());
        assert!(
            told(
                "{client_credentials: {client_id: i, client_secret: 'env:S'}}",
                "",
                u64::from(u32::MAX)
            )
            .is_empty()
        );
    }
}
