//! As much of XML as devices' descriptions and answers need: tags and the text between them.
//!
//! Nothing is expanded but the five predefined entities and numbers, no declaration is obeyed, and no nesting is kept: a document
//! that is broken gives nonsense and no more. It takes time and memory in proportion to the document, whose bound is its reader's.

use std::borrow::Cow;

/// A piece of a document. Names are without their prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open(&'a str),
    Close(&'a str),
    Text(Cow<'a, str>),
}

/// The pieces of a document.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    rest: &'a str,
    /// A tag that closes itself.
    closes: Option<&'a str>,
}

impl<'a> Tokens<'a> {
    pub(super) const fn new(document: &'a str) -> Self {
        Self { rest: document, closes: None }
    }

    /// What stands before `end`, which is passed; all, when it does not come.
    fn until(&mut self, end: &str) -> &'a str {
        let (before, rest) = self.rest.split_once(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        before
    }

    /// The same for the end of a tag, which may stand in an attribute too.
    fn tag(&mut self) -> &'a str {
        let mut quote = None;
        let end = self.rest.find(|c| match quote {
            Some(open) => {
                quote = quote.filter(|_| c != open);
                false
            }
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                false
            }
            None => c == '>',
        });
        let Some((tag, rest)) = end.and_then(|end| self.rest.split_at_checked(end)) else { return self.until(">") };
        self.rest = rest.strip_prefix('>').unwrap_or_default();
        tag
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if let Some(name) = self.closes.take() {
            return Some(Token::Close(name));
        }
        loop {
            let Some(tag) = self.rest.strip_prefix('<') else {
                if self.rest.is_empty() {
                    return None;
                }
                let end = self.rest.find('<').unwrap_or(self.rest.len());
                let (text, rest) = self.rest.split_at_checked(end)?;
                self.rest = rest;
                return Some(Token::Text(unescaped(text)));
            };
            self.rest = tag;
            if let Some(rest) = tag.strip_prefix("!--") {
                self.rest = rest;
                self.until("-->");
            } else if let Some(rest) = tag.strip_prefix("![CDATA[") {
                self.rest = rest;
                return Some(Token::Text(Cow::Borrowed(self.until("]]>"))));
            } else if tag.starts_with('?') {
                self.until("?>");
            } else if tag.starts_with('!') {
                self.until(">");
            } else if let Some(rest) = tag.strip_prefix('/') {
                self.rest = rest;
                return Some(Token::Close(local(self.until(">"))));
            } else {
                let tag = self.tag();
                let name = local(tag);
                self.closes = tag.ends_with('/').then_some(name);
                return Some(Token::Open(name));
            }
        }
    }
}

/// The text of the first element with this name.
pub(super) fn field(document: &str, name: &str) -> Option<String> {
    let mut inside = false;
    for token in Tokens::new(document) {
        match token {
            Token::Open(open) => inside = open == name,
            Token::Text(text) if inside && !text.trim().is_empty() => return Some(text.trim().to_owned()),
            Token::Close(_) => inside = false,
            Token::Text(_) => {}
        }
    }
    None
}

/// A tag's name without its prefix.
fn local(tag: &str) -> &str {
    let name = tag.split(|c: char| c.is_ascii_whitespace() || c == '/').next().unwrap_or_default();
    name.rsplit(':').next().unwrap_or_default()
}

/// XML 1.0 §4.1, §4.6. What is no reference stays as it is.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split('&');
    let mut all = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once(';').and_then(|(name, rest)| Some((entity(name)?, rest))) {
            Some((c, rest)) => {
                all.push(c);
                all.push_str(rest);
            }
            None => {
                all.push('&');
                all.push_str(piece);
            }
        }
    }
    Cow::Owned(all)
}

fn entity(name: &str) -> Option<char> {
    match name {
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "amp" => return Some('&'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        _ => {}
    }
    let number = name.strip_prefix('#')?;
    let code = match number.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    char::from_u32(code.ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(document: &str) -> Vec<String> {
        let show = |token| match token {
            Token::Open(name) => format!("<{name}"),
            Token::Close(name) => format!("{name}>"),
            Token::Text(text) => format!("'{text}"),
        };
        Tokens::new(document).map(show).collect()
    }

    #[test]
    fn tags_and_text() {
        let document = "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b \"c\">]><s:a x='>' y=\"'/>\">1 &lt; 2<b/><c\n></c >\
                        <!-- <d> --><![CDATA[<e>&amp;]]></s:a>";
        let found = shown(document);
        assert_eq!(found, ["']>", "<a", "'1 < 2", "<b", "b>", "<c", "c>", "'<e>&amp;", "a>"]);
    }

    #[test]
    fn entities() {
        for (text, meant) in [
            ("a&amp;b&lt;&gt;&quot;&apos;", "a&b<>\"'"),
            ("&#65;&#x42;", "AB"),
            ("&b;&;&#xD800;&#99999999999;&#-1;&", "&b;&;&#xD800;&#99999999999;&#-1;&"),
            ("&amp;lt;", "&lt;"),
        ] {
            assert_eq!(unescaped(text), meant);
        }
    }

    #[test]
    fn fields() {
        let document = "<a><b> </b>no<b><c>x</c></b><u:b>\n y </u:b><b>z</b></a>";
        assert_eq!(field(document, "b").as_deref(), Some("y"));
        assert_eq!(field(document, "c").as_deref(), Some("x"));
        assert_eq!(field(document, "d"), None);
    }

    #[test]
    fn what_is_broken_off_ends() {
        for (document, pieces) in [
            ("<", 1),
            ("<a", 1),
            ("<a b='>", 1),
            ("</", 1),
            ("<!--", 0),
            ("<![CDATA[x", 1),
            ("<?", 0),
            ("<!", 0),
            ("<a>text", 2),
            ("&", 1),
            ("<a/", 2),
            ("<a/>", 2),
        ] {
            assert_eq!(shown(document).len(), pieces, "{document}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_survived(document in "(<|>|/|!|-|\\[|CDATA|&|;|#|x|'|\"|a|:|é| ){0,60}") {
            let text: usize = Tokens::new(&document).map(|token| match token {
                Token::Open(name) => name.len() + 1,
                Token::Close(_) => 0,
                Token::Text(text) => text.len(),
            }).sum();
            prop_assert!(text <= document.len());
        }
    }
}
