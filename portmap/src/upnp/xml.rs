//! The part of XML that device descriptions and SOAP responses need: start and end of elements, and the text between
//! them.
//!
//! The parser is quick-xml. Only the five predefined entities and character references are expanded, declarations are
//! ignored and nesting is not checked, because many routers send documents that are not well-formed. Time and memory
//! are linear in the document, whose size the reader bounds.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, Event};

/// A token of a document. Names have no namespace prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Start(String),
    End(String),
    /// The text between two tags, unescaped.
    Text(String),
}

/// The tokens of a document, up to its end or its first syntax error.
pub(super) struct Tokens<'a> {
    reader: Reader<&'a [u8]>,
    /// The tag that ended the last returned text.
    next: Option<Token>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(document: &'a str) -> Self {
        let mut reader = Reader::from_str(document);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_end_names = false;
        config.allow_unmatched_ends = true;
        config.allow_dangling_amp = true;
        Self { reader, next: None }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if let Some(token) = self.next.take() {
            return Some(token);
        }
        let mut text = String::new();
        let tag = loop {
            match self.reader.read_event() {
                Ok(Event::Start(tag) | Event::Empty(tag)) => {
                    break Some(Token::Start(tag.local_name().as_ref().to_owned()));
                }
                Ok(Event::End(tag)) => break Some(Token::End(tag.local_name().as_ref().to_owned())),
                Ok(Event::Text(piece)) => text.push_str(&piece.xml10_content()),
                Ok(Event::CData(piece)) => text.push_str(&piece.xml10_content()),
                Ok(Event::GeneralRef(reference)) => push_resolved(&mut text, &reference),
                Ok(Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {}
                Ok(Event::Eof) | Err(_) => break None,
            }
        };
        if text.is_empty() {
            return tag;
        }
        self.next = tag;
        Some(Token::Text(text))
    }
}

/// The text of the first element with this name whose text is not blank.
pub(super) fn field(document: &str, name: &str) -> Option<String> {
    let mut is_inside = false;
    for token in Tokens::new(document) {
        match token {
            Token::Start(start) => is_inside = start == name,
            Token::Text(text) if is_inside && !text.trim().is_empty() => return Some(text.trim().to_owned()),
            Token::End(_) => is_inside = false,
            Token::Text(_) => {}
        }
    }
    None
}

/// Appends the character of a reference (XML 1.0 §4.1, §4.6). An unknown reference is appended unchanged.
fn push_resolved(text: &mut String, reference: &BytesRef<'_>) {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        text.push(character);
    } else if let Some(resolved) = resolve_xml_entity(reference) {
        text.push_str(resolved);
    } else {
        text.push('&');
        text.push_str(reference);
        text.push(';');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(document: &str) -> Vec<String> {
        let show = |token| match token {
            Token::Start(name) => format!("<{name}"),
            Token::End(name) => format!("{name}>"),
            Token::Text(text) => format!("'{text}"),
        };
        Tokens::new(document).map(show).collect()
    }

    #[test]
    fn a_document_becomes_tags_and_text() {
        let document = "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b \"c\">]><s:a x='>' y=\"'/>\">\
            1 &lt; 2<b/><c\n></c >\
                        <!-- <d> --><![CDATA[<e>&amp;]]></s:a>";
        assert_eq!(shown(document), ["<a", "'1 < 2", "<b", "b>", "<c", "c>", "'<e>&amp;", "a>"]);
    }

    #[test]
    fn only_predefined_entities_and_characters_are_expanded() {
        for (text, meant) in [
            ("a&amp;b&lt;&gt;&quot;&apos;", "a&b<>\"'"),
            ("&#65;&#x42;", "AB"),
            ("&b;&;&#xD800;&#99999999999;&#-1;&", "&b;&;&#xD800;&#99999999999;&#-1;&"),
            ("&amp;lt;", "&lt;"),
        ] {
            assert_eq!(shown(&format!("<a>{text}</a>"))[1], format!("'{meant}"));
        }
    }

    #[test]
    fn declared_entities_stay_unexpanded() {
        // "Billion laughs": ten entities, each of which references the previous one ten times.
        let mut declared = "<!ENTITY e0 \"ha\">".to_owned();
        for level in 1..10 {
            let body = format!("&e{};", level - 1).repeat(10);
            declared.push_str(&format!("<!ENTITY e{level} \"{body}\">"));
        }
        let file = "<!ENTITY file SYSTEM \"file:///etc/passwd\">";
        let document = format!("<!DOCTYPE a [{declared}{file}]><a>&e9;&file;</a>");
        assert_eq!(shown(&document), ["<a", "'&e9;&file;", "a>"]);
    }

    #[test]
    fn field_returns_first_match_with_text() {
        let document = "<a><b> </b>no<b><c>x</c></b><u:b>\n y </u:b><b>z</b></a>";
        assert_eq!(field(document, "b").as_deref(), Some("y"));
        assert_eq!(field(document, "c").as_deref(), Some("x"));
        assert_eq!(field(document, "d"), None);
    }

    #[test]
    fn tags_that_do_not_match_are_accepted() {
        assert_eq!(field("</x><a><b>1</a><c>2", "c").as_deref(), Some("2"));
        assert_eq!(shown("<a><b></a></c>"), ["<a", "<b", "a>", "c>"]);
    }

    #[test]
    fn a_truncated_document_ends() {
        for document in ["<", "<a", "<a b='>", "</", "<!--", "<![CDATA[x", "<?", "<!", "&", "<!DOCTYPE a ["] {
            assert!(shown(document).len() <= 1, "{document}: {:?}", shown(document));
        }
        for (document, expected) in [("<a>text", &["<a", "'text"]), ("<a/>", &["<a", "a>"])] {
            assert_eq!(shown(document), expected, "{document}");
        }
    }

    proptest! {
        #[test]
        fn tokens_are_no_longer_than_document(
            document in "(<|>|/|!|-|\\[|CDATA|&|;|#|x|'|\"|a|:|é| ){0,60}",
        ) {
            let text: usize = Tokens::new(&document).map(|token| match token {
                Token::Start(name) => name.len() + 1,
                Token::End(_) => 0,
                Token::Text(text) => text.len(),
            }).sum();
            prop_assert!(text <= document.len());
        }
    }
}
