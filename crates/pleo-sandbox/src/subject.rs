//! The subject of a token: a company, or the organisation that owns the first two.

/// The first company, the subject of an authorization that chooses none while it is free. Fixed,
/// so that examples can be copied.
pub const COMPANY_ID: &str = "c0a1e5ce-0000-4000-8000-000000000001";
/// The second company.
pub const SECOND_COMPANY_ID: &str = "c0a1e5ce-0000-4000-8000-000000000002";
/// The organisation of both companies.
pub const ORGANISATION_ID: &str = "0a9a2150-0000-4000-8000-000000000001";

/// The beginning of all company ids; a number of twelve digits follows.
const COMPANY: &str = "c0a1e5ce-0000-4000-8000-";

/// A company or organisation that can authorize the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) enum Subject {
    #[default]
    FirstCompany,
    SecondCompany,
    Organisation,
    /// A further company, from number 3 on: it has a name and no data.
    Company(u16),
}

impl Subject {
    /// The subjects that the consent page offers.
    pub(crate) const LISTED: [Self; 3] =
        [Self::FirstCompany, Self::SecondCompany, Self::Organisation];

    /// All companies, in the order of their numbers.
    pub(crate) fn companies() -> impl Iterator<Item = Self> {
        [Self::FirstCompany, Self::SecondCompany]
            .into_iter()
            .chain((3..=u16::MAX).map(Self::Company))
    }

    pub(crate) fn from_urn(urn: &str) -> Option<Self> {
        let number = urn.strip_prefix("urn:pleo:company:").and_then(|id| id.strip_prefix(COMPANY));
        let further =
            number.filter(|number| number.len() == 12).and_then(|number| number.parse().ok());
        let further = further.filter(|number| *number >= 3).map(Self::Company);
        Self::LISTED.into_iter().find(|subject| subject.urn() == urn).or(further)
    }

    pub(crate) fn id(self) -> String {
        match self {
            Self::FirstCompany => COMPANY_ID.into(),
            Self::SecondCompany => SECOND_COMPANY_ID.into(),
            Self::Organisation => ORGANISATION_ID.into(),
            Self::Company(number) => format!("{COMPANY}{number:012}"),
        }
    }

    pub(crate) fn urn(self) -> String {
        match self {
            Self::Organisation => format!("urn:pleo:organisation:{}", self.id()),
            _ => format!("urn:pleo:company:{}", self.id()),
        }
    }

    pub(crate) fn title(self) -> String {
        match self {
            Self::FirstCompany => "Harbour Coffee ApS".into(),
            Self::SecondCompany => "Harbour Roastery GmbH".into(),
            Self::Organisation => "Harbour Group (both companies)".into(),
            Self::Company(number) => format!("Harbour Branch {number}"),
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
