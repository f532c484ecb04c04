//! Join tokens: what a developer pastes, and what they read when it went wrong.

#![expect(clippy::unwrap_used, reason = "these are tests; clippy only sees that in the functions marked so")]

use culvert_certs::{Fingerprint, JoinToken, MintError, TokenError, TokenHash, TokenId};
use proptest::prelude::*;

fn authority() -> Fingerprint {
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff".parse().unwrap()
}

fn minted() -> JoinToken {
    JoinToken::mint(authority(), "relay.example.com:4433").unwrap()
}

fn same(one: &JoinToken, two: &JoinToken) -> bool {
    one.relay() == two.relay()
        && one.authority() == two.authority()
        && one.id() == two.id()
        && one.hash() == two.hash()
}

fn refused(text: &str) -> TokenError {
    text.parse::<JoinToken>().unwrap_err()
}

#[test]
fn a_token_says_where_and_whom_to_trust() {
    let token = minted();
    let text = token.reveal();
    assert!(text.expose().starts_with("CULVERT1."));
    let read: JoinToken = text.expose().parse().unwrap();
    assert!(same(&token, &read));
    assert_eq!(read.relay(), Some("relay.example.com:4433"));
    assert_eq!(read.authority(), authority());
    let bare = JoinToken::mint(authority(), "").unwrap();
    assert_eq!(bare.reveal().expose().parse::<JoinToken>().unwrap().relay(), None);
}

#[test]
fn the_space_and_line_breaks_around_a_pasted_token_do_not_matter() {
    let token = minted();
    let text = format!("\r\n\t {}\n\n", token.reveal().expose());
    assert!(same(&token, &text.parse().unwrap()));
}

#[test]
fn two_tokens_share_nothing_and_the_relay_keeps_no_secret() {
    let (one, two) = (minted(), minted());
    assert_ne!(one.id(), two.id());
    assert_ne!(one.hash(), two.hash());
    assert_eq!(one.hash().to_string().parse::<TokenHash>().unwrap(), one.hash());
    assert_eq!(one.id().to_string().parse::<TokenId>().unwrap(), one.id());
    assert_ne!(one.hash(), TokenHash::NONE);
}

#[test]
fn a_log_line_shows_which_token_it_was_and_not_the_token() {
    let token = minted();
    let text = token.reveal();
    let shown = format!("{token:?} {token:#?} {text:?} {:?}", token.hash());
    assert!(shown.contains(&token.id().to_string()));
    let secret = text.expose().strip_prefix("CULVERT1.").unwrap();
    assert!(!secret.as_bytes().windows(8).any(|part| shown.contains(std::str::from_utf8(part).unwrap())));
    assert!(!shown.contains(&token.hash().to_string()));
}

#[test]
fn a_token_that_lost_its_end_is_called_cut_short() {
    for relay in ["", "r", "re", "relay.example.com:4433"] {
        let text = JoinToken::mint(authority(), relay).unwrap().reveal();
        let text = text.expose();
        for end in 1..text.len() {
            assert_eq!(refused(&text[..end]), TokenError::CutShort, "at {end} of {}", text.len());
        }
    }
    assert_eq!(TokenError::CutShort.to_string(), "reading the join token: the token is cut short");
}

#[test]
fn a_typo_is_told_apart_from_a_cut() {
    let text = minted().reveal();
    let text = text.expose();
    // From the fourth character on: the first three hold the length.
    for at in "CULVERT1.".len() + 3..text.len() {
        for other in ["A", "z", "_"] {
            let mut typo = text.clone();
            typo.replace_range(at..=at, other);
            if typo != *text {
                assert_eq!(refused(&typo), TokenError::Mistyped, "at {at}");
            }
        }
    }
}

#[test]
fn what_is_not_a_token_is_said_to_be_what_it_is() {
    let text = minted().reveal();
    let text = text.expose();
    assert_eq!(refused(""), TokenError::Empty);
    assert_eq!(refused(" \n"), TokenError::Empty);
    assert_eq!(refused("hunter2"), TokenError::NotAToken);
    assert_eq!(refused("CULVERT.abc"), TokenError::NotAToken);
    assert_eq!(refused(&text.to_lowercase()), TokenError::NotAToken);
    assert_eq!(refused(&text.replace("CULVERT1", "CULVERT2")), TokenError::OtherVersion);
    assert_eq!(refused(&text.replace("CULVERT1", "CULVERT10")), TokenError::OtherVersion);
    assert_eq!(refused(&format!("{text}AAAA")), TokenError::TooMuch);
    assert_eq!(refused(&format!("{text}A")), TokenError::TooMuch);
    assert_eq!(refused(&format!("{text}=")), TokenError::BadCharacter { position: text.len() + 1 });
    assert_eq!(
        refused(&format!("{}\n{}", &text[..40], &text[40..])),
        TokenError::BadCharacter { position: 41 }
    );
    assert_eq!(refused(&"CULVERT1.A".repeat(200_000)), TokenError::TooLong);
}

#[test]
fn a_token_is_not_made_for_an_address_that_would_not_fit_or_print() {
    let longest = "a".repeat(255);
    let token = JoinToken::mint(authority(), &longest).unwrap();
    assert!(same(&token, &token.reveal().expose().parse().unwrap()));
    for relay in [&"a".repeat(256), "relay example", "relay\u{1b}[31m", "relé"] {
        assert!(matches!(JoinToken::mint(authority(), relay), Err(MintError::Hint(_))), "{relay}");
    }
}

proptest! {
    #[test]
    fn every_token_reads_back_as_it_was_written(relay in "[!-~]{0,255}", bytes: [u8; 32]) {
        let fingerprint = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().parse().unwrap();
        let token = JoinToken::mint(fingerprint, &relay).unwrap();
        let read = JoinToken::parse(token.reveal().expose().as_bytes()).unwrap();
        prop_assert!(same(&token, &read));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, prefixed: bool) {
        let text = if prefixed { [b"CULVERT1.".as_slice(), &bytes].concat() } else { bytes };
        prop_assert!(JoinToken::parse(&text).is_err());
    }

    #[test]
    fn nothing_that_looks_like_a_token_makes_the_parser_panic(body in "[A-Za-z0-9_-]{0,400}") {
        let text = format!("CULVERT1.{body}");
        prop_assert!(JoinToken::parse(text.as_bytes()).is_err());
    }

    #[test]
    fn a_token_has_only_one_spelling(at in 9_usize..130, other in "[A-Za-z0-9_-]") {
        let text = minted().reveal();
        let mut changed = text.expose().clone();
        let at = at.min(changed.len() - 1);
        changed.replace_range(at..=at, &other);
        prop_assert_eq!(JoinToken::parse(changed.as_bytes()).is_ok(), changed == *text.expose());
    }
}
