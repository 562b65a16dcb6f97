//! Problems of a configuration and the text that tells a person about them.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::key::{Key, Shape};
use super::one_line;
use super::setting::{Place, Setting};
use super::source::{Excerpt, Source};

/// Everything that is wrong with a configuration, ready to be printed. Holds no secret.
#[derive(Clone)]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    pub(super) fn of(texts: Vec<String>) -> Self {
        Self(texts)
    }

    /// One text for each problem.
    pub fn problems(&self) -> &[String] {
        &self.0
    }

    /// Several in one.
    pub(super) fn all(errors: Vec<Self>) -> Self {
        Self(errors.into_iter().flat_map(|error| error.0).collect())
    }

    /// A problem that says itself what to do.
    pub(super) fn text(text: impl fmt::Display) -> Self {
        Self(vec![format!("error: {}", one_line(&text.to_string()))])
    }

    /// A problem of a whole file or of the command line.
    pub(super) fn plain(title: &str, help: &str) -> Self {
        Self(vec![render(title, help, None)])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n\n"))
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}

/// Why a value will not do. Never contains the value.
pub(super) struct Fault {
    /// Continues "`listen.api` ...".
    pub(super) problem: String,
    /// What to write instead; the key's example if there is nothing better.
    pub(super) help: Option<String>,
    /// Which item of a list.
    pub(super) item: Option<usize>,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), help: None, item: None }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(super) fn item(self, item: usize) -> Self {
        Self { item: Some(item), ..self }
    }
}

/// Collects problems, so that one run tells all of them.
pub(super) struct Problems<'a> {
    source: Option<&'a Source>,
    /// By place in the file; those of no place come last.
    found: Vec<(usize, String)>,
}

/// Where in the file, and what of it may be seen.
struct Spot<'a> {
    source: &'a Source,
    offset: usize,
    excerpt: Option<Excerpt>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(source: Option<&'a Source>) -> Self {
        Self { source, found: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_error(mut self) -> ConfigError {
        self.found.sort_by_key(|(offset, _)| *offset);
        ConfigError::of(self.found.into_iter().map(|(_, text)| text).collect())
    }

    /// A problem without a place in the file.
    pub(super) fn plain(&mut self, title: &str, help: &str) {
        self.found.push((usize::MAX, render(title, help, None)));
    }

    /// A problem with a key of the file whose value is not shown.
    pub(super) fn key(&mut self, span: std::ops::Range<usize>, title: &str, help: &str) {
        let spot = self.source.map(|source| Spot { source, offset: span.start, excerpt: source.key_only(&span) });
        self.found.push((span.start, render(title, help, spot)));
    }

    /// Text that is not TOML.
    pub(super) fn syntax(&mut self, span: std::ops::Range<usize>, message: &str) {
        let spot = self.source.map(|source| Spot { source, offset: span.start, excerpt: source.broken(&span) });
        let message = message.trim_end_matches(", expected nothing");
        let title = format!("this is not valid TOML: {message}");
        let help = "texts stand in double quotes, lists in square brackets; see proxy.toml of the repository";
        self.found.push((span.start, render(&title, help, spot)));
    }

    /// A value that will not do, wherever it came from.
    pub(super) fn fault(&mut self, key: &Key, setting: &Setting, fault: &Fault) {
        let (name, example) = match &setting.place {
            Place::Variable(variable) => (variable.clone(), format!("{variable}={}", key.bare_example())),
            Place::Flag("--set") => {
                (format!("--set {}", key.name), format!("--set {}={}", key.name, key.bare_example()))
            }
            Place::Flag(flag) => ((*flag).to_owned(), format!("{flag} {}", key.bare_example())),
            Place::Default | Place::File(_) => (key.name.to_owned(), format!("{} = {}", key.short(), key.example)),
        };
        let title = format!("`{name}` {}", fault.problem);
        let by_example = || match key.shape {
            // An example of a switch would say which way to turn it.
            Shape::Boolean => format!("write {} or {}", example.replace("false", "true"), example),
            _ => format!("write for example: {example}"),
        };
        let help = fault.help.clone().unwrap_or_else(by_example);
        let spot = self.spot(key, setting, fault.item);
        let offset = spot.as_ref().map_or(usize::MAX, |spot| spot.offset);
        self.found.push((offset, render(&title, &help, spot)));
    }

    fn spot(&self, key: &Key, setting: &Setting, item: Option<usize>) -> Option<Spot<'a>> {
        let (Some(source), Place::File(spans)) = (self.source, &setting.place) else { return None };
        let value = item.and_then(|item| spans.items.get(item)).unwrap_or(&spans.value);
        let shown = if key.hides_value() { None } else { source.setting(&spans.key, value) };
        Some(match shown {
            Some(excerpt) => Spot { source, offset: value.start, excerpt: Some(excerpt) },
            None => Spot { source, offset: spans.key.start, excerpt: source.key_only(&spans.key) },
        })
    }
}

/// The look of a compiler's error; plain, because it also goes to logs.
fn render(title: &str, help: &str, spot: Option<Spot<'_>>) -> String {
    let (title, help) = (one_line(title), one_line(help));
    let group = Group::with_title(Level::ERROR.primary_title(&title));
    let group = match spot {
        Some(spot) => pointing(group, spot),
        None => group,
    };
    Renderer::plain().render(&[group.element(Level::HELP.message(&help))])
}

fn pointing<'a>(group: Group<'a>, spot: Spot<'a>) -> Group<'a> {
    let (line, column) = spot.source.position(spot.offset);
    let path = one_line(&spot.source.shown);
    match spot.excerpt {
        Some(excerpt) => {
            let caret = AnnotationKind::Primary.span(excerpt.span);
            group.element(Snippet::source(excerpt.text).line_start(line).path(path).annotation(caret))
        }
        None => group.element(Origin::path(path).line(line).char_column(column)),
    }
}
