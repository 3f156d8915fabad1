//! What the browser brings back from the consent page: the query of the callback.
//!
//! Invariants: a pure decision over any text; what comes out is short, printable ASCII but for the description, which is
//! shown only through [`crate::token::refusal`]. A name that comes twice is refused: two readers could differ on which
//! one counts (RFC 6749 §3.1). No `Debug` that shows the code or the state.
//! Fails with: [`Misfit`], which quotes nothing.
//! Source: SF §1.4.4; RFC 6749 §4.1.2, appendix A.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};

/// A callback in the form of one. Whether it is ours, its state tells.
pub struct Callback {
    pub state: SecretString,
    pub said: Said,
}

/// The person's answer.
pub enum Said {
    Code(SecretString),
    /// Salesforce's `error` and `error_description`.
    Error {
        error: String,
        description: String,
    },
}

/// Why a query is no callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("it is longer than {LONGEST} characters")]
    TooLong,
    #[error("a parameter comes twice")]
    Twice,
    #[error("it has no state")]
    NoState,
    #[error("it has neither code nor error")]
    Nothing,
    #[error("it has both code and error")]
    Both,
    #[error("a parameter is empty, too long or has characters that none may have")]
    Characters,
}

impl Callback {
    /// Reads the query, as it came: without `?`, percent-encoded.
    pub fn read(query: &str) -> Result<Self, Misfit> {
        if query.len() > LONGEST {
            return Err(Misfit::TooLong);
        }
        let mut seen: Vec<String> = vec![];
        let (mut code, mut state, mut error, mut description) = (None, None, None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if seen.iter().any(|known| *known == name) {
                return Err(Misfit::Twice);
            }
            let slot = match &*name {
                "code" => Some(&mut code),
                "state" => Some(&mut state),
                "error" => Some(&mut error),
                "error_description" => Some(&mut description),
                _ => None,
            };
            if let Some(slot) = slot {
                *slot = Some(value.into_owned());
            }
            seen.push(name.into_owned());
        }
        let state = state.ok_or(Misfit::NoState)?;
        let said = match (code, error) {
            (Some(_), Some(_)) => return Err(Misfit::Both),
            (None, None) => return Err(Misfit::Nothing),
            (Some(code), None) => Said::Code(word(code, LONGEST)?.into()),
            (None, Some(error)) => Said::Error {
                error: word(error, LONGEST_ERROR)?,
                description: description.unwrap_or_default(),
            },
        };
        Ok(Self {
            state: word(state, LONGEST_STATE)?.into(),
            said,
        })
    }

    /// Whether it answers the request with this state. Takes as long for a near miss as for a wild guess.
    pub fn answers(&self, state: &SecretString) -> bool {
        let (came, ours) = (self.state.expose_secret(), state.expose_secret());
        verify_slices_are_equal(came.as_bytes(), ours.as_bytes()).is_ok()
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// Printable ASCII, as codes, states and errors are.
fn word(text: String, longest: usize) -> Result<String, Misfit> {
    let fits = !text.is_empty() && text.len() <= longest && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if fits { Ok(text) } else { Err(Misfit::Characters) }
}

/// Of the whole query, in bytes.
const LONGEST: usize = 4096;
const LONGEST_STATE: usize = 128;
const LONGEST_ERROR: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Told = Result<(String, String), Misfit>;

    /// The kind and what came with it.
    fn told(query: &str) -> Told {
        let callback = Callback::read(query)?;
        assert!(!format!("{callback:?}").contains("CANARY"));
        let state = callback.state.expose_secret().to_owned();
        Ok(match callback.said {
            Said::Code(code) => (state, format!("code {}", code.expose_secret())),
            Said::Error { error, description } => (state, format!("{error}: {description}")),
        })
    }

    #[test]
    fn only_one_code_or_one_error_with_one_state_is_a_callback() {
        let good = |state: &str, said: &str| Ok((state.to_owned(), said.to_owned()));
        let long = format!("code={}&state=s", "a".repeat(LONGEST));
        let long_state = format!("code=a&state={}", "s".repeat(LONGEST_STATE + 1));
        let rows: &[(&str, Told)] = &[
            ("code=aPrxCANARY%3D%3D&state=st", good("st", "code aPrxCANARY==")),
            ("state=st&code=a.b_c&sfdc_community_url=x", good("st", "code a.b_c")),
            (
                "error=access_denied&error_description=end-user+denied+authorization&state=st",
                good("st", "access_denied: end-user denied authorization"),
            ),
            ("error=access_denied&state=st", good("st", "access_denied: ")),
            ("", Err(Misfit::NoState)),
            ("code=a", Err(Misfit::NoState)),
            ("state=s", Err(Misfit::Nothing)),
            ("error_description=x&state=s", Err(Misfit::Nothing)),
            ("code=a&error=b&state=s", Err(Misfit::Both)),
            ("code=a&code=a&state=s", Err(Misfit::Twice)),
            ("code=a&c%6Fde=b&state=s", Err(Misfit::Twice)),
            ("code=a&state=s&state=t", Err(Misfit::Twice)),
            ("code=a&state=s&x=1&x=2", Err(Misfit::Twice)),
            ("code=&state=s", Err(Misfit::Characters)),
            ("code=a&state=", Err(Misfit::Characters)),
            ("code=a%0d%0ab&state=s", Err(Misfit::Characters)),
            ("code=%FF&state=s", Err(Misfit::Characters)),
            ("code=a&state=%C3%A9", Err(Misfit::Characters)),
            ("error=a%00&state=s", Err(Misfit::Characters)),
            (&long, Err(Misfit::TooLong)),
            (&long_state, Err(Misfit::Characters)),
        ];
        for (query, expected) in rows {
            assert_eq!(told(query), *expected, "{query}");
        }
    }

    #[test]
    fn the_state_is_ours_only_whole() {
        let callback = Callback::read("code=a&state=0123456789").unwrap();
        for (state, ours) in [
            ("0123456789", true),
            ("0123456788", false),
            ("012345678", false),
            ("01234567890", false),
            ("", false),
        ] {
            assert_eq!(callback.answers(&state.into()), ours, "{state}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_what_comes_out_is_printable(query in ".{0,200}") {
            if let Ok(Callback { state, said: Said::Code(code) }) = Callback::read(&query) {
                for text in [state.expose_secret(), code.expose_secret()] {
                    prop_assert!(!text.is_empty() && text.bytes().all(|b| (32..127).contains(&b)));
                }
            }
        }
    }
}
