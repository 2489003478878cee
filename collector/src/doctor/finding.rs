//! What there is to say.

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Good to know.
    Note,
    /// Something will not be seen.
    Limit,
    /// There will be no trace.
    Blocker,
}

/// One thing to say about a program or this machine.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// A word for programs.
    pub(crate) about: &'static str,
    /// What is so.
    pub(crate) what: String,
    /// What can be done about it.
    pub(crate) advice: Option<String>,
}

impl Severity {
    /// For programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Limit => "limit",
            Severity::Blocker => "blocker",
        }
    }
}

impl Finding {
    /// Something good to know.
    pub(crate) fn note(about: &'static str, what: impl Into<String>) -> Finding {
        Finding { severity: Severity::Note, about, what: what.into(), advice: None }
    }

    /// Something that will not be seen.
    pub(crate) fn limit(about: &'static str, what: impl Into<String>) -> Finding {
        Finding { severity: Severity::Limit, ..Finding::note(about, what) }
    }

    /// Why there will be no trace.
    pub(crate) fn blocker(about: &'static str, what: impl Into<String>) -> Finding {
        Finding { severity: Severity::Blocker, ..Finding::note(about, what) }
    }

    /// With what can be done about it.
    pub(crate) fn advise(self, advice: impl Into<String>) -> Finding {
        Finding { advice: Some(advice.into()), ..self }
    }
}
