//! Keys of the parameter maps (contract §3). The same number may stand in several maps of one message.

/// Key of a parameter: its number stands as text in the JSON object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Key(pub u32);

macro_rules! keys {
    ($($number:literal $name:ident),+ $(,)?) => {
        #[allow(missing_docs, non_upper_case_globals)] // the names are the contract's; §6 says what each means where
        impl Key {
            $(pub const $name: Key = Key($number);)+

            /// The contract's name of the key.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)+
                    _ => None,
                }
            }

            /// The key with this name in the contract; the case of letters does not matter.
            pub fn from_name(name: &str) -> Option<Self> {
                [$(Key($number)),+].into_iter().find(|key| key.name().is_some_and(|own| own.eq_ignore_ascii_case(name)))
            }
        }
    };
}

keys! {
    0 Name,
    1 Type,
    2 Core,
    3 Memory,
    4 Disk,
    5 Usage,
    6 IO,
    7 Speed,
    8 Description,
    9 Error,
    10 Status,
    11 Pool,
    12 Cell,
    13 Instance,
    14 Enable,
    15 Flag,
    16 Option,
    17 ID,
    18 User,
    19 Group,
    20 Network,
    21 Address,
    22 Port,
    23 Priority,
    24 Limit,
    25 Storage,
    26 Source,
    27 Target,
    28 Mode,
    29 Host,
    30 Path,
    31 Monitor,
    32 Progress,
    33 Count,
    34 Size,
    35 Available,
    36 Media,
    37 Tag,
    38 Image,
    39 Guest,
    40 Secret,
    41 Immediate,
    42 System,
    43 Version,
    44 Admin,
    45 Module,
    46 Previous,
    47 Next,
    48 Current,
    49 Create,
    50 Modify,
    51 Attach,
    52 Migration,
    53 Start,
    54 End,
    55 Mask,
    56 Allocate,
    57 Gateway,
    58 Server,
    59 Assign,
    60 Internal,
    61 External,
    62 Day,
    63 Hour,
    64 Minute,
    65 Second,
    66 Hardware,
    67 Data,
    68 Display,
    69 Device,
    70 Protocol,
    71 Interface,
    72 Action,
    73 Template,
    74 From,
    75 To,
    76 Index,
    77 Security,
    78 Policy,
}

impl std::fmt::Display for Key {
    /// As the contract writes it: `Instance(13)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name().unwrap_or("Unknown"), self.0)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
