//! Whom a token speaks for: a company or the organisation that holds both.

/// The first company, which authorizations speak for unless they choose another. Fixed, so that examples can be copied.
pub const COMPANY_ID: &str = "c0a1e5ce-0000-4000-8000-000000000001";
/// The second company.
pub const SECOND_COMPANY_ID: &str = "c0a1e5ce-0000-4000-8000-000000000002";
/// The organisation of both companies.
pub const ORGANISATION_ID: &str = "0a9a2150-0000-4000-8000-000000000001";

/// One who can authorize the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Subject {
    #[default]
    FirstCompany,
    SecondCompany,
    Organisation,
}

impl Subject {
    pub(crate) const ALL: [Self; 3] = [Self::FirstCompany, Self::SecondCompany, Self::Organisation];

    pub(crate) fn from_urn(urn: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subject| subject.urn() == urn)
    }

    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::FirstCompany => COMPANY_ID,
            Self::SecondCompany => SECOND_COMPANY_ID,
            Self::Organisation => ORGANISATION_ID,
        }
    }

    pub(crate) fn urn(self) -> String {
        match self {
            Self::Organisation => format!("urn:pleo:organisation:{}", self.id()),
            _ => format!("urn:pleo:company:{}", self.id()),
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::FirstCompany => "Harbour Coffee ApS",
            Self::SecondCompany => "Harbour Roastery GmbH",
            Self::Organisation => "Harbour Group (both companies)",
        }
    }

    /// Whether data of this company is visible to the subject.
    pub(crate) fn sees(self, company: &str) -> bool {
        match self {
            Self::Organisation => company == COMPANY_ID || company == SECOND_COMPANY_ID,
            _ => company == self.id(),
        }
    }
}
