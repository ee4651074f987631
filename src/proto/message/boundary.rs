//! Finds where a JSON object ends in a stream of bytes, looking at each byte once.
//!
//! Contract: the scanner follows the JSON grammar, so that it notices the first byte after which nothing that could follow would make it JSON. It
//! does not check what takes the value to judge: the UTF-8 of texts, lone surrogates, numbers out of range. Nesting is kept on the heap and bounded by
//! the number of bytes given.

/// What the bytes have come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scan {
    /// They end between objects; only white space since the last one.
    Between,
    /// They end inside an object.
    Inside,
    /// An object ends after so many of the bytes given.
    Complete(usize),
    /// The byte at this place can stand in no JSON object.
    Never(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Between,
    /// After `{`: a key or `}`.
    FirstKey,
    /// After `,` in an object.
    Key,
    Colon,
    /// After `[`: a value or `]`.
    FirstValue,
    Value,
    AfterValue,
    Text(Role),
    Escape(Role),
    /// So many hexadecimal digits of a `\u` are missing.
    Unicode(Role, u8),
    Number(Number),
    /// Inside `true`, `false` or `null`: what is missing.
    Word(&'static [u8]),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Key,
    Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Number {
    Minus,
    /// A leading zero, which no digit may follow.
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Container {
    Object,
    Array,
}

/// The scanner; begins between objects.
#[derive(Debug)]
pub(super) struct Boundary {
    state: State,
    open: Vec<Container>,
}

/// What one byte does.
enum Step {
    To(State),
    /// The outermost object ends with it.
    End,
    Never,
}

/// Nesting that the stack may keep room for from one object to the next.
const KEEP: usize = 1024;

impl Boundary {
    pub(super) fn new() -> Self {
        Self { state: State::Between, open: Vec::new() }
    }

    /// Goes on through bytes that follow those of the last call; stops at the first end of an object and after it begins anew.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let State::Text(_) = self.state {
                let plain = bytes.iter().skip(at).take_while(|&&byte| byte >= b' ' && byte != b'"' && byte != b'\\').count();
                if plain > 0 {
                    at += plain;
                    continue;
                }
            }
            match self.step(byte) {
                Step::To(state) => self.state = state,
                Step::End => {
                    self.state = State::Between;
                    self.open.shrink_to(KEEP);
                    return Scan::Complete(at + 1);
                }
                Step::Never => return Scan::Never(at),
            }
            at += 1;
        }
        match self.state {
            State::Between => Scan::Between,
            _ => Scan::Inside,
        }
    }

    fn step(&mut self, byte: u8) -> Step {
        let is_space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.state {
            State::Between | State::FirstKey | State::Key | State::Colon | State::FirstValue | State::Value | State::AfterValue
                if is_space =>
            {
                Step::To(self.state)
            }
            State::Between if byte == b'{' => self.open(Container::Object),
            State::FirstKey if byte == b'}' => self.close(Container::Object),
            State::FirstKey | State::Key if byte == b'"' => Step::To(State::Text(Role::Key)),
            State::Colon if byte == b':' => Step::To(State::Value),
            State::FirstValue if byte == b']' => self.close(Container::Array),
            State::FirstValue | State::Value => self.begin_value(byte),
            State::AfterValue => self.after_value(byte),
            State::Text(role) => in_text(role, byte),
            State::Escape(role) => in_escape(role, byte),
            State::Unicode(role, missing) if byte.is_ascii_hexdigit() => match missing {
                0 | 1 => Step::To(State::Text(role)),
                _ => Step::To(State::Unicode(role, missing - 1)),
            },
            State::Number(number) => self.in_number(number, byte),
            State::Word([expected, rest @ ..]) if byte == *expected => {
                Step::To(if rest.is_empty() { State::AfterValue } else { State::Word(rest) })
            }
            State::Between | State::FirstKey | State::Key | State::Colon | State::Unicode(..) | State::Word(_) => Step::Never,
        }
    }

    fn open(&mut self, container: Container) -> Step {
        self.open.push(container);
        Step::To(match container {
            Container::Object => State::FirstKey,
            Container::Array => State::FirstValue,
        })
    }

    fn close(&mut self, container: Container) -> Step {
        match self.open.pop() {
            Some(innermost) if innermost == container => {}
            _ => return Step::Never,
        }
        if self.open.is_empty() {
            Step::End
        } else {
            Step::To(State::AfterValue)
        }
    }

    fn begin_value(&mut self, byte: u8) -> Step {
        Step::To(match byte {
            b'{' => return self.open(Container::Object),
            b'[' => return self.open(Container::Array),
            b'"' => State::Text(Role::Value),
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            b't' => State::Word(b"rue"),
            b'f' => State::Word(b"alse"),
            b'n' => State::Word(b"ull"),
            _ => return Step::Never,
        })
    }

    fn after_value(&mut self, byte: u8) -> Step {
        match (byte, self.open.last()) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => Step::To(State::AfterValue),
            (b',', Some(Container::Object)) => Step::To(State::Key),
            (b',', Some(Container::Array)) => Step::To(State::Value),
            (b'}', _) => self.close(Container::Object),
            (b']', _) => self.close(Container::Array),
            _ => Step::Never,
        }
    }

    fn in_number(&mut self, number: Number, byte: u8) -> Step {
        use Number::*;
        let next = match (number, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
            (Zero | Integer, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Integer | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Zero | Integer | Fraction | ExponentDigits, _) => return self.after_value(byte),
            (Minus | Point | Exponent | ExponentSign, _) => return Step::Never,
        };
        Step::To(State::Number(next))
    }
}

fn in_text(role: Role, byte: u8) -> Step {
    match byte {
        b'"' if role == Role::Key => Step::To(State::Colon),
        b'"' => Step::To(State::AfterValue),
        b'\\' => Step::To(State::Escape(role)),
        0..=0x1f => Step::Never,
        _ => Step::To(State::Text(role)),
    }
}

fn in_escape(role: Role, byte: u8) -> Step {
    match byte {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Step::To(State::Text(role)),
        b'u' => Step::To(State::Unicode(role, 4)),
        _ => Step::Never,
    }
}
