//! Any bytes are a claim, or a condition, or an error, and what was read can be written and read again.
#![no_main]

use culvert_protocol::intercept::{
    CONDITIONS_CAP, Condition, Intercept, InterceptName, Matcher, OnUnreachable, ServiceName,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(claim) = serde_json::from_slice::<Intercept>(bytes) {
        let written = serde_json::to_vec(&claim).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Intercept>(&written).expect("and read again"), claim);
        assert!(claim.matcher.conditions().len() <= CONDITIONS_CAP);
        assert!(Matcher::all_traffic().covers(&claim.matcher));
    }
    if let Ok(condition) = Condition::parse(bytes) {
        let written = condition.to_string();
        assert_eq!(Condition::parse(written.as_bytes()), Ok(condition), "{written}");
        assert!(!written.chars().any(char::is_control));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        text.parse::<ServiceName>().ok();
        text.parse::<InterceptName>().ok();
        if let Ok(policy) = text.parse::<OnUnreachable>() {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }
});
